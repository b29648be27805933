"""Forgetting against utility: where every model stands at full precision, and where each scheme moves it.

Columns are schemes, rows are corpora and forget metrics. An arrow leads from the model at full precision (hollow) to
the same model under the scheme (filled). Up and left is good; an arrow to the right is knowledge that comes back.
"""

from matplotlib.collections import LineCollection

from scripts.core.analysis import style, tables
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["scores"]
FEW, CROWD = 12, 24  # cells up to which intervals, and arrow heads, are drawn


def draw(tables_):
    """Figure of `tables_["scores"]`; x is VerbMem or KnowMem on the forget set, y KnowMem (else VerbMem) on the retain set."""
    scores = tables_["scores"]
    rows = panels.unlearned(scores)
    utility, metrics = tables.utility(rows), panels.forget_metrics(rows)
    schemes = [name for name in tables.schemes(rows) if name != "full"]
    if not utility or not metrics or not schemes:
        return style.empty(
            panels.NOTHING.format("it takes a forget metric, KnowMem or VerbMem on the retain set and a scheme beside full")
        )
    rows = rows[rows.metric.isin([utility, *metrics])]
    names, corpora = tables.label(rows), tables.corpora(rows)
    families = style.look(dict.fromkeys(key.family for key in names))
    crowd, known = len(names), panels.references(scores)
    across, height = (min(4, len(schemes)), 1.75) if crowd <= CROWD else (min(2, len(schemes)), 2.8)
    down = [(corpus, metric, band) for corpus in corpora for metric in metrics for band in layout.bands(schemes, across)]
    figure = style.figure(style.TEXT if across > 1 else style.COLUMN, height * len(down) + 0.7)
    axes = figure.subplots(len(down), across, squeeze=False, sharex="row", sharey="row")
    for line, (corpus, metric, band) in zip(axes, down, strict=True):
        for axis, scheme in layout.filled(line, band):
            panel(axis, rows[rows.corpus == corpus], metric, utility, scheme, families, crowd)
            marks(axis, known, corpus, metric, utility, scheme)
            axis.set_title(f"{corpus}: {scheme}" if len(corpora) > 1 else scheme)
            axis.set_xlabel(tables.title(rows, metric) + " (×100)")
            axis.margins(0.08)
        line[0].set_ylabel(tables.title(rows, utility) + " (×100)")
    style.legend(figure, handles(families, set(rows.weights)))
    style.note(figure, [panels.whiskers(rows) if crowd <= FEW else "", *panels.absences(rows, names)])
    return figure


def handles(families: dict, precisions: set) -> list:
    """The legend: families by colour, precisions of the weights by line, and what the marks are."""
    lines = [(weights, line) for weights, line in panels.LINES.items() if weights in precisions]
    return [
        *(style.handle(name, **look) for name, look in families.items()),
        *(style.handle(f"{weights} weights", color=style.INK, linestyle=line) for weights, line in lines),
        style.handle("full precision", color=style.INK, marker="o", markerfacecolor="white"),
        style.handle("under the scheme", color=style.INK, marker="o"),
        style.handle("target", color=style.GREY, marker="*", markersize=6),
        style.handle("retrain", color=style.GREY, marker="p", markersize=5),
    ]


def panel(axis, rows, metric, utility, scheme, families, crowd) -> None:
    """Arrows of one corpus, forget metric and scheme; the small print lists cells that lack a value."""
    found = {(tables.key(row), row.scheme, row.metric): row for row in rows.itertuples()}
    size, alpha = (3.5, 1.0) if crowd <= CROWD else (2.2, 0.6)
    groups = {}
    for key in dict.fromkeys(panels.key_column(rows)):
        ends = [[found.get((key, s, m)) for m in (metric, utility)] for s in ("full", scheme)]
        groups.setdefault((key.family, key.weights), []).append([end if panels.valued(*end) else None for end in ends])
    for (family, weights), pairs in groups.items():
        look, line = families[family], panels.LINES.get(weights, "-")
        for which, face in enumerate(("white", look["color"])):
            ends = [pair[which] for pair in pairs if pair[which]]
            x, y = [end[0] for end in ends], [end[1] for end in ends]
            spread = {"xerr": panels.arms(x), "yerr": panels.arms(y)} if crowd <= FEW else {}
            drawn = axis.errorbar(
                [row.value for row in x], [row.value for row in y], **spread, **look, markerfacecolor=face, markersize=size,
                markeredgewidth=0.7, elinewidth=0.4, alpha=alpha, linestyle="none", zorder=3,
                label=f"_{family} {weights} {scheme if which else 'full'}",
            )  # fmt: skip
            for bars in drawn.lines[2]:
                bars.set(alpha=0.4, zorder=1)
        joined = [[(end[0].value, end[1].value) for end in pair] for pair in pairs if all(pair)]
        if crowd > CROWD:  # heads would hide the points; hollow and filled ends still tell the direction
            axis.add_collection(
                LineCollection(joined, colors=look["color"], linestyles=line, linewidths=0.5, alpha=alpha, zorder=2)
            )
            continue
        for start, stop in joined:
            arrow = axis.annotate(
                "", xy=stop, xytext=start, zorder=2,
                arrowprops={
                    "arrowstyle": "-|>,head_length=0.25,head_width=0.12", "color": look["color"], "linewidth": 0.7,
                    "linestyle": line, "shrinkA": 2, "shrinkB": 2,
                },
            )  # fmt: skip
            arrow.set_in_layout(False)  # it lies inside the panel; measuring each would slow the layout down


def marks(axis, known, corpus, metric, utility, scheme) -> None:
    """Target and retrain, hollow at full precision and filled under the scheme."""
    for method, marker, size in (("target", "*", 6), ("retrain", "p", 5)):
        for name, face in (("full", "white"), (scheme, style.GREY)):
            x, y = (known.get((corpus, method, m, name)) for m in (metric, utility))
            if x is not None and y is not None:
                axis.plot(
                    [x.value], [y.value], marker=marker, markersize=size, color=style.GREY, markerfacecolor=face,
                    markeredgewidth=0.6, linestyle="none", zorder=2,
                )  # fmt: skip
