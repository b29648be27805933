"""Forget score under a scheme against full precision, one point per cell: points above the diagonal got knowledge back."""

from scripts.core.analysis import style, tables
from scripts.figures import _panels as panels

TABLES = ["scores"]


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
    per_page = min(4, len(schemes))
    bands = [schemes[i : i + per_page] for i in range(0, len(schemes), per_page)]
    down = [(corpus, metric, band) for corpus in corpora for metric in metrics for band in bands]
    figure = style.figure(style.TEXT if per_page > 1 else style.COLUMN, 1.75 * len(down) + 0.7)
    axes = figure.subplots(len(down), per_page, squeeze=False, sharex=True, sharey=True)
    for i, (corpus, metric, band) in enumerate(down):
        for j in range(per_page):
            axis = axes[i][j]
            if j >= len(band):
                axis.set_visible(False)
                continue
            panel(axis, rows[(rows.corpus == corpus) & (rows.metric == metric)], band[j], families, len(names))
            target = known.get((corpus, "target", metric, band[j]))
            if target is not None:
                axis.axhline(target.value, color=style.GREY, linewidth=0.8, zorder=1)
            axis.set_title(f"{corpus}: {band[j]}" if len(corpora) > 1 else band[j])
            axis.tick_params(labelbottom=True)
            if j == 0:
                axis.set_ylabel(f"{tables.title(rows, metric)}\nunder the scheme (×100)")
            axis.set_xlabel("at full precision (×100)")
    handles = [style.handle(name, **look) for name, look in families.items()]
    for weights in panels.LINES:
        if weights in set(rows.weights):
            fill = panels.filling(weights, style.INK)
            handles.append(style.handle(f"{weights} weights", color=style.INK, marker="o", **fill))
    handles.append(style.handle("no change", color=style.INK, linestyle="--", linewidth=0.6))
    handles.append(style.handle("target under the scheme", color=style.GREY, linestyle="-"))
    style.legend(figure, handles)
    style.note(figure, [panels.whiskers(rows) if len(names) <= 40 else "", *panels.absences(rows, names)])
    return figure


def panel(axis, rows, scheme, families, crowd) -> None:
    """Points of one corpus, metric and scheme, filled as the precision of the weights says."""
    found = {(tables.key(row), row.scheme): row for row in rows.itertuples()}
    size, alpha = (3.5, 1.0) if crowd <= 40 else (2.4, 0.7)
    axis.plot([-4, 104], [-4, 104], color=style.INK, linestyle="--", linewidth=0.6, zorder=1)
    groups = {}
    for key in dict.fromkeys(panels.key_column(rows)):
        pair = found.get((key, "full")), found.get((key, scheme))
        if panels.valued(*pair):
            groups.setdefault((key.family, key.weights), []).append(pair)
    for (family, weights), points in groups.items():
        full, under = zip(*points, strict=True)
        look = families[family]
        spread = {"xerr": panels.arms(full), "yerr": panels.arms(under)} if crowd <= 40 else {}
        axis.errorbar(
            [row.value for row in full], [row.value for row in under], **spread, **look,
            **panels.filling(weights, look["color"]), markersize=size, elinewidth=0.4, markeredgewidth=0.7, alpha=alpha,
            linestyle="none", zorder=3, label=f"_{family} {weights}",
        )  # fmt: skip
    axis.set_xlim(-4, 104)
    axis.set_ylim(-4, 104)
    axis.set_xticks([0, 50, 100])
    axis.set_yticks([0, 50, 100])
