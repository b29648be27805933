"""Recovery by calibration set: does calibrating on the forget set bring more of it back?

Rows are unlearned models under families of schemes that differ in their calibration set alone. Left: R with its interval;
right: the difference to the first set's R, whose interval is paired.
"""

from scripts.core.analysis import style, tables
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["calibration_effect"]
SETS = ("generic", "forget", "retain")
SHOWN = (("verbmem", "VerbMem"), ("knowmem", "KnowMem"), ("perplexity", "log p of the text"))


def draw(tables_):
    """Figure of the table; one row of panels per metric, R (%) left, D (percentage points) right."""
    table = panels.unlearned(tables_["calibration_effect"])
    shown = [(kind, words) for kind, words in SHOWN if kind in set(table.kind)]
    if not shown:
        return style.empty(panels.NOTHING.format("no two schemes that differ in their calibration set alone"))
    names, several = tables.label(table), len(tables.corpora(table)) > 1
    models = len(set(names)) > 1
    places = {}
    for row in table.itertuples():
        who = f"{row.corpus}: {names[tables.key(row)]}" if several else names[tables.key(row)]
        places.setdefault((tables.key(row), row.family), f"{row.family}, {who}" if models else row.family)
    looks = style.look([name for name in SETS if name in set(table.calibration)])
    height = min(0.3, 7 / len(places)) * len(places)
    figure = style.figure(style.TEXT, len(shown) * (height + 0.55) + 0.8)
    axes = figure.subplots(len(shown), 2, squeeze=False)
    for (left, right), (kind, words) in zip(axes, shown, strict=True):
        rows = table[table.kind == kind]
        panel(left, rows, places, looks, "R")
        panel(right, rows, places, looks, "D")
        left.set_title(f"{words}, forget set", loc="left")
        left.set_yticks(range(len(places)), list(places.values()))
        right.set_yticks(range(len(places)), [])
    axes[-1][0].set_xlabel("recovery R (%)")
    axes[-1][1].set_xlabel(f"R minus R of {table.base.iloc[0]} text (percentage points)")
    style.legend(figure, [style.handle(f"calibrated on {name} text", **look) for name, look in looks.items()])
    style.note(figure, [panels.whiskers(table), *missing(table, names)])
    return figure


def panel(axis, rows, places, looks, column: str) -> None:
    """Marks of R or D in percent, one per family and set, with whiskers."""
    axis.axvline(0, color=style.INK, linewidth=0.6)
    layout.row_axis(axis, len(places))
    order = {place: y for y, place in enumerate(places)}
    for shift, (name, look) in zip(layout.offsets(len(looks)), looks.items(), strict=True):
        here = list(rows[(rows.calibration == name) & rows[column].notna()].itertuples())
        values, lows, highs = ([100 * getattr(row, column + part) for row in here] for part in ("", "_low", "_high"))
        arms = panels.lengths([(v - low, high - v) for v, low, high in zip(values, lows, highs, strict=True)])
        axis.errorbar(
            values, [order[tables.key(row), row.family] + shift for row in here], xerr=arms, **look,
            markersize=3, elinewidth=0.6, linestyle="none", label=f"_{name}",
        )  # fmt: skip


def missing(table, names) -> list[str]:
    """Which recoveries are not there, and why."""
    return [
        f"No R: {names[tables.key(row)]} under {row.scheme} ({tables.TITLES[row.kind]}): {row.R_reason}"
        for row in table[table.R.isna()].itertuples()
    ]
