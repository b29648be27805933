"""Recovery as predicted from the weights alone against recovery as measured, for cells that the fit had not seen."""

import numpy as np

from scripts.core.analysis import style
from scripts.figures import _panels as panels

TABLES = ["prediction", "prediction_fit"]
SHOWN = {"perplexity": "log p of the text", "verbmem": "VerbMem", "knowmem": "KnowMem"}
SPLITS = {name: f"a {name} left out" for name in ("method", "setting", "scheme", "corpus")}
MANY = 60  # cells per panel above which intervals are drawn faintly


def draw(tables_):
    """Figure of a row per way of leaving out and a column per metric; x predicted R (%), y measured R (%), of the regression."""
    rows, fit = tables_["prediction"], tables_["prediction_fit"]
    predictor = "gradient" if (rows.predictor == "gradient").any() else "weights"
    rows = rows[(rows.predictor == predictor) & rows.predicted.map(known) & rows.R.notna()]
    kinds = [kind for kind in SHOWN if (rows.kind == kind).any()]
    if not kinds:
        found = sorted({text for text in fit.reason if text}) if len(fit) else []
        return style.empty(panels.NOTHING.format("no predicted recovery" + (f" ({found[0]})" if found else "")))
    splits = [split for split in SPLITS if (rows.left_out == split).any()]
    looks = style.look(list(dict.fromkeys(rows.scheme)))
    figure = style.figure(style.TEXT if len(kinds) > 1 else style.COLUMN, (2.3 if len(kinds) == 3 else 3.1) * len(splits) + 0.6)
    axes = figure.subplots(len(splits), len(kinds), squeeze=False)
    outside = 0
    for line, split in zip(axes, splits, strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            outside += panel(axis, rows[(rows.left_out == split) & (rows.kind == kind)], looks)
            axis.set_title(f"{SHOWN[kind]}, {SPLITS[split]}", loc="left")
            axis.text(0.97, 0.03, quality(fit, kind, split, predictor), transform=axis.transAxes, ha="right", fontsize=style.SMALL)
        line[0].set_ylabel("measured recovery R (%)")
    for axis in axes[-1]:
        axis.set_xlabel("predicted recovery R (%)")
    style.legend(figure, [style.handle(name, **look) for name, look in looks.items()])
    of = "the update and its gradient" if predictor == "gradient" else "the update alone"
    notes = [f"Regression on numbers of {of}; every point is of a cell that its fit had not seen"]
    notes += [f"{outside} predictions lie beyond a panel's range and stand at its edge"] if outside else []
    notes += [panels.whiskers(rows)] if rows.R_low.notna().any() else []
    style.note(figure, notes)
    return figure


def panel(axis, rows, looks: dict) -> int:
    """Measured against predicted R of one metric and way of leaving out; returns how many predictions lie beyond the panel."""
    outside, (low, high) = 0, limits(100 * rows.R)
    for scheme, look in looks.items():
        here = rows[rows.scheme == scheme]
        x, y = 100 * here.predicted.astype(float), 100 * here.R
        outside += int(((x < low) | (x > high)).sum())
        arms = [100 * np.maximum(0, here.R - here.R_low), 100 * np.maximum(0, here.R_high - here.R)]
        axis.errorbar(
            x.clip(low, high), y, yerr=np.nan_to_num(arms), **look, ecolor=(look["color"], 0.15 if len(rows) > MANY else 1),
            markersize=2.4, elinewidth=0.4, linestyle="none", markeredgewidth=0, label=f"_{scheme}",
        )  # fmt: skip
    axis.plot([low, high], [low, high], color=style.INK, linewidth=0.5, linestyle="--", label="_diagonal")
    pad = 0.03 * (high - low)
    axis.set_xlim(low - pad, high + pad)
    axis.set_ylim(low - pad, high + pad)
    axis.set_box_aspect(1)
    return outside


def known(value) -> bool:
    """Whether a cell of a table is a number."""
    return isinstance(value, int | float) and value == value


def limits(values) -> tuple[float, float]:
    """Range of a panel: that of the measured recoveries, 0 and 100 included."""
    return min(-10.0, float(values.min())), max(110.0, float(values.max()))


def quality(fit, kind: str, split: str, predictor: str) -> str:
    """R² with its interval, the number of cells and how many errors the fit had allowed for, as prediction_fit.csv has them."""
    own = fit[(fit.kind == kind) & (fit.left_out == split) & (fit.predictor == predictor)]
    if own.empty or not known(own.R2.iloc[0]):
        return ""
    row = own.iloc[0]
    held = f"\n90 % bands hold {100 * row.coverage:.0f} %" if known(row.coverage) else ""
    digits = 3 if row.R2 > 0.99 else 2  # never 1.00 for what is not 1
    bounds = f"[{row.R2_low:.{digits}f}, {row.R2_high:.{digits}f}]"
    return f"R² {row.R2:.{digits}f} {bounds}\n{row.cells:.0f} cells{held}".replace("-", "−")
