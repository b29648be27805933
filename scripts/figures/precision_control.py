"""The control: the same method with bf16 and with fp32 weights, at forgetting as equal as the sweep offers.

For each method and regularizer, the bf16 and the fp32 cell whose forget scores at full precision lie nearest are set
side by side, among those whose learning rates differ by a factor of two at most where there are such: the learning rate decides
what comes back, too. If recovery comes from the precision of the weights that the optimiser writes, only the bf16 line rises
towards the target.
"""

import numpy as np

from scripts.core.analysis import style, tables
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["scores"]


def draw(tables_):
    """Figure of `tables_["scores"]`; panels are corpus and metric by method_regularizer, x schemes, y scores ×100."""
    scores = tables_["scores"]
    rows = panels.unlearned(scores)
    metrics = panels.forget_metrics(rows)
    rows = rows[rows.metric.isin(metrics)]
    matched = pairs(rows, metrics)
    if not matched:
        return style.empty(panels.NOTHING.format("no method was run with both bf16 and fp32 weights and scored at full precision"))
    schemes, corpora = tables.schemes(rows), list(dict.fromkeys(corpus for corpus, _ in matched))
    families = list(dict.fromkeys(family for _, family in matched))
    across = min(len(families), max(1, int(style.TEXT / max(1.2, 0.24 * len(schemes) + 0.4))))
    down = [(corpus, metric, band) for corpus in corpora for band in layout.bands(families, across) for metric in metrics]
    heights = [1.55 if metric == metrics[-1] else 1.1 for _, metric, _ in down]
    figure = style.figure(style.COLUMN if across == 1 else style.TEXT, sum(heights) + 0.8)
    axes = figure.subplots(len(down), across, squeeze=False, sharey=True)
    known = panels.references(scores)
    single = scores[(scores.seed != tables.POOLED) & scores.value.notna()]
    for line, (corpus, metric, band) in zip(axes, down, strict=True):
        here, seeds = (table[(table.corpus == corpus) & (table.metric == metric)] for table in (rows, single))
        for axis, family in layout.filled(line, band):
            if (corpus, family) not in matched:
                axis.set_visible(False)
                continue
            panel(axis, here, seeds, matched[corpus, family], schemes)
            references(axis, known, corpus, metric, schemes)
            named = schemes if metric == metrics[-1] else [""] * len(schemes)
            axis.set_xticks(range(len(schemes)), named, rotation=40, ha="right", rotation_mode="anchor")
            if metric == metrics[0]:
                axis.set_title(f"{corpus}: {family}" if len(corpora) > 1 else family)
        line[0].set_ylabel(tables.title(rows, metric).replace(", forget set", "\n(forget set, ×100)"))
    style.legend(figure, handles())
    keys = {key for pair in matched.values() for key in pair.values()}
    shown = rows[[key in keys for key in panels.key_column(rows)]]
    pooled = "Small dots: single seeds" if (shown.seed == tables.POOLED).any() else ""
    style.note(figure, [panels.whiskers(shown), pooled, *settings(matched), *panels.absences(shown, tables.label(rows))], limit=14)
    return figure


def handles() -> list:
    """The legend: precisions of the weights, and the dashes of target and retrain."""
    precisions = zip(style.WEIGHTS.items(), "os", strict=True)
    return [
        *(style.handle(f"{name} weights", color=colour, marker=mark, linestyle="-") for (name, colour), mark in precisions),
        style.handle("target under the scheme", color=style.GREY, marker="_", markersize=8, markeredgewidth=1.2),
        style.handle("retrain under the scheme", color=style.GREY, marker="_", markersize=4, markeredgewidth=0.8),
    ]


def pairs(rows, metrics) -> dict[tuple, dict]:
    """{(corpus, method_regularizer): {"bf16": key, "fp32": key}}: the two cells with the nearest scores at full precision.

    Nearest is the smallest Euclidean distance over the forget metrics; ties go to the first in the table. Pairs of alike learning
    rates come before others.
    """
    full = rows[(rows.scheme == "full") & rows.value.notna()]
    points = {}
    for row in full.itertuples():
        points.setdefault(tables.key(row), {})[row.metric] = row.value
    points = {key: np.array([scores[m] for m in metrics]) for key, scores in points.items() if len(scores) == len(metrics)}
    matched = {}
    for corpus, family in dict.fromkeys((key.corpus, key.family) for key in points):
        members = [key for key in points if (key.corpus, key.family) == (corpus, family)]
        both = [(a, b) for a in members for b in members if (a.weights, b.weights) == ("bf16", "fp32")]
        both = [pair for pair in both if alike(*pair)] or both
        if both:
            a, b = min(both, key=lambda pair: np.linalg.norm(points[pair[0]] - points[pair[1]]))
            matched[corpus, family] = {"bf16": a, "fp32": b}
    return matched


def alike(one, other) -> bool:
    """Whether the learning rates of two cells are known and differ by a factor of two at most."""
    if not (one.lr and other.lr):
        return False
    low, high = sorted(float(key.lr) for key in (one, other))
    return high <= 2 * low


def panel(axis, rows, seeds, pair, schemes) -> None:
    """Scores per scheme of the two cells; small dots are single seeds where several are pooled."""
    found = {(tables.key(row), row.scheme): row for row in rows.itertuples()}
    for shift, marker, (weights, colour) in zip((-0.12, 0.12), "os", style.WEIGHTS.items(), strict=True):
        here = [(x, found.get((pair[weights], scheme))) for x, scheme in enumerate(schemes)]
        here = [(x + shift, row) for x, row in here if panels.valued(row)]
        axis.errorbar(
            [x for x, _ in here], [row.value for _, row in here],
            yerr=panels.arms([row for _, row in here]), color=colour, marker=marker, linewidth=0.6,
            elinewidth=0.6, capsize=1.2, capthick=0.6, zorder=3, label=f"_{weights}",
        )  # fmt: skip
        each = [r for r in seeds.itertuples() if tables.key(r) == pair[weights]]
        if len({row.seed for row in each}) > 1:
            axis.plot(
                [schemes.index(row.scheme) + 1.9 * shift for row in each], [row.value for row in each], marker=".", markersize=2,
                color=colour, alpha=0.7, linestyle="none", zorder=3, label=f"_seeds {weights}",
            )  # fmt: skip
    axis.set_xlim(-0.5, len(schemes) - 0.5)
    axis.set_ylim(-4, 104)
    axis.grid(False, axis="x")


def references(axis, known, corpus, metric, schemes) -> None:
    """Dashes at the scores of target and retrain under each scheme."""
    for method, half, thick in (("target", 0.42, 1.2), ("retrain", 0.25, 0.8)):
        for x, scheme in enumerate(schemes):
            row = known.get((corpus, method, metric, scheme))
            if row is not None:
                axis.plot([x - half, x + half], [row.value] * 2, color=style.GREY, linewidth=thick, zorder=2)


def settings(matched) -> list[str]:
    """Small print: which settings stand beside each other."""
    several = len({corpus for corpus, _ in matched}) > 1
    return [
        f"{corpus + ', ' if several else ''}{name}: {pair['bf16'].setting} beside {pair['fp32'].setting}"
        for (corpus, name), pair in matched.items()
    ]
