"""Forget score under a scheme against full precision, one point per cell: points above the diagonal got knowledge back."""

from scripts.core.analysis import style, tables
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["scores"]
CROWD = 40  # cells up to which intervals are drawn


def draw(tables_):
    """Figure of `tables_["scores"]`; columns are schemes, rows corpora and forget metrics, both axes scores ×100."""
    scores = tables_["scores"]
    rows = panels.unlearned(scores)
    metrics = panels.forget_metrics(rows)
    schemes = [name for name in tables.schemes(rows) if name != "full"]
    rows = rows[rows.metric.isin(metrics)]
    if rows.empty or not schemes:
        return style.empty(panels.NOTHING.format("no unlearned model under a scheme other than full precision"))
    names, corpora = tables.label(rows), tables.corpora(rows)
    known = panels.references(scores)
    families = style.look(dict.fromkeys(key.family for key in names))
    across = min(4, len(schemes))
    down = [(corpus, metric, band) for corpus in corpora for metric in metrics for band in layout.bands(schemes, across)]
    figure = style.figure(style.TEXT if across > 1 else style.COLUMN, 1.75 * len(down) + 0.7)
    axes = figure.subplots(len(down), across, squeeze=False, sharex=True, sharey=True)
    for line, (corpus, metric, band) in zip(axes, down, strict=True):
        for axis, scheme in layout.filled(line, band):
            panel(axis, rows[(rows.corpus == corpus) & (rows.metric == metric)], scheme, families, len(names))
            target = known.get((corpus, "target", metric, scheme))
            if target is not None:
                axis.axhline(target.value, color=style.GREY, linewidth=0.8, zorder=1)
            axis.set_title(f"{corpus}: {scheme}" if len(corpora) > 1 else scheme)
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("at full precision (×100)")
        line[0].set_ylabel(f"{tables.title(rows, metric)}\nunder the scheme (×100)")
    style.legend(figure, handles(families, set(rows.weights)))
    style.note(figure, [panels.whiskers(rows) if len(names) <= CROWD else "", *panels.absences(rows, names)])
    return figure


def handles(families: dict, precisions: set) -> list:
    """The legend: families by colour, precisions of the weights by filling, and what the lines are."""
    fillings = [(weights, panels.filling(weights, style.INK)) for weights in panels.LINES if weights in precisions]
    return [
        *(style.handle(name, **look) for name, look in families.items()),
        *(style.handle(f"{weights} weights", color=style.INK, marker="o", **filling) for weights, filling in fillings),
        style.handle("no change", color=style.INK, linestyle="--", linewidth=0.6),
        style.handle("target under the scheme", color=style.GREY, linestyle="-"),
    ]


def panel(axis, rows, scheme, families, crowd) -> None:
    """Points of one corpus, metric and scheme, filled as the precision of the weights says."""
    found = {(tables.key(row), row.scheme): row for row in rows.itertuples()}
    size, alpha = (3.5, 1.0) if crowd <= CROWD else (2.4, 0.7)
    axis.plot([-4, 104], [-4, 104], color=style.INK, linestyle="--", linewidth=0.6, zorder=1)
    groups = {}
    for key in dict.fromkeys(panels.key_column(rows)):
        pair = found.get((key, "full")), found.get((key, scheme))
        if panels.valued(*pair):
            groups.setdefault((key.family, key.weights), []).append(pair)
    for (family, weights), points in groups.items():
        full, under = zip(*points, strict=True)
        look = families[family]
        spread = {"xerr": panels.arms(full), "yerr": panels.arms(under)} if crowd <= CROWD else {}
        axis.errorbar(
            [row.value for row in full], [row.value for row in under], **spread, **look,
            **panels.filling(weights, look["color"]), markersize=size, elinewidth=0.4, markeredgewidth=0.7, alpha=alpha,
            linestyle="none", zorder=3, label=f"_{family} {weights}",
        )  # fmt: skip
    axis.set_xlim(-4, 104)
    axis.set_ylim(-4, 104)
    axis.set_xticks([0, 50, 100])
    axis.set_yticks([0, 50, 100])
