"""Recovery against the width of the model: R under each scheme for models trained alike at several hidden sizes."""

from scripts.core.analysis import style, tables
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["recovery"]
STEP = 0.07  # octaves between the marks of two schemes at one width


def draw(tables_):
    """Figure of `tables_["recovery"]`; one panel per family and precision of weights, x hidden size (log), y R (%).

    Each model is a mark; a line joins the means of the widths. R is of VerbMem, or of KnowMem or the likelihood of the forget set
    where more models have that.
    """
    rows = panels.unlearned(tables_["recovery"])
    rows = rows[rows.checkpoint == ""]  # two checkpoints of one model would be two marks
    rows = rows[rows.metric == panels.most_defined(rows)]
    widths = {key: float(row.hidden) for key, row in zip(panels.key_column(rows), rows.itertuples(), strict=True) if known(row)}
    if len(set(widths.values())) < 2:
        return style.empty(panels.NOTHING.format("no unlearned models of two hidden sizes"))
    rows = rows[[key in widths for key in panels.key_column(rows)]]
    schemes = [name for name in tables.schemes(rows) if name != "full"]
    looks = style.look(schemes)
    families = list(dict.fromkeys((key.family, key.weights) for key in widths))
    down, across = layout.wrapped(len(families), 3)
    figure = style.figure(style.TEXT if across > 1 else style.COLUMN, 1.9 * down + 0.6)
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    found = {(tables.key(row), row.scheme): row for row in rows.itertuples()}
    ticks = sorted(set(widths.values()))
    for axis, (family, weights) in layout.filled(axes.flat, families):
        panel(axis, {key: width for key, width in widths.items() if (key.family, key.weights) == (family, weights)}, found, looks)
        axis.set_title(f"{family}, {weights} weights")
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [f"{width:g}" for width in ticks])
        axis.minorticks_off()
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("hidden size")
    bottom, top = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(max(bottom, -110), min(top, 150))
    for row in axes:
        row[0].set_ylabel(f"recovery R of {panels.NAMES[rows.kind.iloc[0]]} (%)")
    style.legend(figure, [style.handle(name, linestyle="-", **look) for name, look in looks.items()])
    absent = [(key, scheme, row) for (key, scheme), row in found.items() if scheme != "full" and not panels.recovers(row)]
    style.note(figure, [panels.whiskers(rows), *(f"{key.corpus}, {scheme}: {row.R_reason}" for key, scheme, row in absent)])
    return figure


def panel(axis, widths: dict, found: dict, looks: dict) -> None:
    """R of one family against the width, a line per scheme. widths: {key: hidden size}; found: {(key, scheme): row}."""
    for number, (scheme, look) in enumerate(looks.items()):
        aside = 2 ** (STEP * (number - (len(looks) - 1) / 2))
        points = [(width, found[key, scheme]) for key, width in widths.items() if panels.recovers(found.get((key, scheme)))]
        axis.errorbar(
            [aside * width for width, _ in points], [100 * row.R for _, row in points], **look, linestyle="none", markersize=3,
            yerr=panels.recovery_arms([row for _, row in points]), elinewidth=0.5, capsize=1, label=f"_{scheme}",
        )  # fmt: skip
        levels = {
            width: [100 * row.R for other, row in points if other == width] for width in sorted({width for width, _ in points})
        }
        means = [sum(level) / len(level) for level in levels.values()]
        axis.plot([aside * width for width in levels], means, color=look["color"], label=f"_mean {scheme}")
    axis.axhline(0, color=style.INK, linewidth=0.5, zorder=1)


def known(row) -> bool:
    """Whether a row says how wide its model is."""
    width = getattr(row, "hidden", "")
    return str(width).replace(".", "", 1).isdigit()
