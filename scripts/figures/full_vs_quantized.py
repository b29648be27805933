"""Full precision against every scheme, paired by cell: does quantization give back what the model had unlearned?

One row per cell, one column of panels per metric, one row of panels per corpus. Marks of a row are the same model
under different schemes. Lines across are the target (what was known) and the retrain model (what a model knows that
never read the forget set).
"""

from scripts.core.analysis import style, tables
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["scores"]


def draw(tables_):
    """Figure of `tables_["scores"]`; scores ×100 with their intervals."""
    scores = tables_["scores"]
    rows = panels.unlearned(scores)
    metrics = [name for name in (*panels.forget_metrics(rows), tables.utility(rows)) if name]
    rows = rows[rows.metric.isin(metrics)]
    if rows.empty:
        return style.empty(panels.NOTHING.format("no scores of unlearned models"))
    names, schemes, corpora = tables.label(rows), tables.schemes(rows), tables.corpora(rows)
    known = panels.references(scores)
    looks = {"full": {"color": style.INK, "marker": "o", "markerfacecolor": "white"}}
    looks |= style.look([scheme for scheme in schemes if scheme != "full"])
    cells = {corpus: [key for key in names if key.corpus == corpus] for corpus in corpora}
    per_row = max(0.12, min(0.1 + 0.055 * len(schemes), 30 / sum(map(len, cells.values()))))
    heights = [0.5 + per_row * max(2, len(cells[corpus])) for corpus in corpora]
    width = min(style.TEXT, 2.1 + 1.65 * len(metrics))
    figure = style.figure(width, sum(heights) + 0.8)
    axes = figure.subplots(len(corpora), len(metrics), squeeze=False, height_ratios=heights)
    for line, corpus in zip(axes, corpora, strict=True):
        for axis, metric in zip(line, metrics, strict=True):
            panel(axis, rows[(rows.corpus == corpus) & (rows.metric == metric)], cells[corpus], schemes, looks, per_row)
            layout.reference_lines(axis.axvline, known, corpus, metric)
            title = tables.title(rows, metric)
            axis.set_title(f"{corpus}: {title}" if len(corpora) > 1 else title)
            axis.set_yticks(range(len(cells[corpus])), [])
        line[0].set_yticks(range(len(cells[corpus])), [names[key] for key in cells[corpus]])
    for axis in axes[-1]:
        axis.set_xlabel("ROUGE-L F1 (×100)")
    handles = [style.handle(scheme, **looks[scheme]) for scheme in schemes]
    style.legend(figure, handles + layout.reference_handles(", full precision"))
    style.note(figure, [panels.whiskers(rows), *panels.absences(rows, names)])
    return figure


def panel(axis, rows, keys, schemes, looks, per_row) -> None:
    """One corpus and metric: the schemes' marks around the cell's row, × at the edge where a value is missing."""
    found = {(tables.key(row), row.scheme): row for row in rows.itertuples()}
    dodge = 0.72 / max(1, len(schemes) - 1)
    size = min(3.5, max(1.6, 72 * per_row * 0.8 / len(schemes) + 1))
    layout.row_axis(axis, len(keys))
    full = [(y, found.get((key, "full"))) for y, key in enumerate(keys)]
    full = [(y, row.value) for y, row in full if panels.valued(row)]
    bounds = [[y + side for y, _ in full] for side in (-0.45, 0.45)]
    axis.vlines([x for _, x in full], *bounds, color=style.INK, linewidth=0.5, linestyle=":", zorder=2)
    for k, scheme in enumerate(schemes):
        shift = k * dodge - 0.36 if len(schemes) > 1 else 0
        here = [(y + shift, found[key, scheme]) for y, key in enumerate(keys) if (key, scheme) in found]
        marks = [(y, row) for y, row in here if panels.valued(row)]
        axis.errorbar(
            [row.value for _, row in marks], [y for y, _ in marks], xerr=panels.arms([row for _, row in marks]),
            **looks[scheme], linestyle="none", markersize=size, elinewidth=0.6, markeredgewidth=0.6,
            zorder=4 if scheme == "full" else 3, label=f"_{scheme}",
        )  # fmt: skip
        without = [y for y, row in here if not panels.valued(row)]
        if without:
            axis.plot(
                [0.012] * len(without), without, transform=axis.get_yaxis_transform(), marker="x", markersize=size,
                color=looks[scheme]["color"], linestyle="none", clip_on=False, label=f"_missing {scheme}",
            )  # fmt: skip
    axis.set_xlim(-4, 104)
    axis.set_xticks([0, 25, 50, 75, 100])
