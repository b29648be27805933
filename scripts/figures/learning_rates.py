"""Forgetting against the learning rate: the forget score under each scheme, per method and precision of the weights."""

from scripts.core.analysis import style, tables
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["scores"]


def draw(tables_):
    """Figure of `tables_["scores"]`; rows are (corpus, method_regularizer), columns precisions, x learning rate (log)."""
    scores = tables_["scores"]
    rows = panels.unlearned(scores)
    metrics = panels.forget_metrics(rows)[:1]
    rows = rows[rows.metric.isin(metrics)]
    rows = rows.assign(rate=[panels.rate(text) for text in rows.lr])
    rows = rows[rows.rate > 0]
    drawn = rows[rows["value"].notna()]
    if not len(drawn):
        return style.empty(panels.NOTHING.format("no forget score of an unlearned model with a learning rate"))
    metric, known = metrics[0], panels.references(scores)
    looks = style.look(tables.schemes(rows))
    families = list(dict.fromkeys(zip(rows.corpus, rows.method, rows.regularizer, strict=True)))
    precisions = sorted(set(rows.weights))
    figure = style.figure(style.TEXT if len(precisions) > 1 else style.COLUMN, 1.45 * len(families) + 0.9)
    axes = figure.subplots(len(families), len(precisions), squeeze=False, sharex=True, sharey=True)
    several = len({corpus for corpus, _, _ in families}) > 1
    for line, (corpus, method, regularizer) in zip(axes, families, strict=True):
        name = f"{method}_{regularizer}"
        for axis, weights in zip(line, precisions, strict=True):
            here = drawn[(drawn.corpus == corpus) & (drawn.method == method) & (drawn.regularizer == regularizer)]
            panel(axis, here[here.weights == weights], looks)
            layout.reference_lines(axis.axhline, known, corpus, metric, linewidth=0.7)
            axis.set_title(f"{corpus + ': ' if several else ''}{name}, {weights} weights")
            axis.set_xscale("log")
            axis.set_ylim(-4, 104)
        line[0].set_ylabel(tables.title(scores, metric))
    for axis in axes[-1]:
        axis.set_xlabel("learning rate")
        axis.set_xticks(*ticks(sorted(set(drawn.rate))))
        axis.minorticks_off()
        axis.set_xlim(drawn.rate.min() / 1.2, drawn.rate.max() * 1.2)
    handles = [style.handle(name, linestyle="-", **look) for name, look in looks.items()]
    style.legend(figure, handles + layout.reference_handles())
    style.note(figure, [panels.whiskers(drawn), *panels.absences(rows, tables.label(scores))])
    return figure


def ticks(rates) -> tuple[list[float], list[str]]:
    """Places and labels of the learning rates that stand far enough apart on a log axis to be read."""
    apart, kept = (rates[-1] / rates[0]) ** 0.14, []
    for place in rates:
        if not kept or place >= kept[-1] * apart:
            kept.append(place)
    return kept, [f"{place:.2g}".replace("e-0", "e-") for place in kept]


def panel(axis, rows, looks) -> None:
    """Every cell as a mark with its interval, and per scheme a line through the means of last checkpoints at each learning rate."""
    for scheme, look in looks.items():
        own = rows[rows.scheme == scheme].sort_values("rate")
        if not len(own):
            continue
        cells = list(own.itertuples())
        axis.errorbar(
            own.rate.tolist(), own["value"].tolist(), yerr=panels.arms(cells), **look,
            linestyle="none", elinewidth=0.5, label=f"_{scheme}",
        )  # fmt: skip
        means = own[own.checkpoint == ""].groupby("rate")["value"].mean()
        axis.plot(means.index.tolist(), means.tolist(), color=look["color"], label=f"_mean {scheme}")
