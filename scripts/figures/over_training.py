"""Forgetting and recovery over training: the forget score of each checkpoint, at full precision and under each scheme."""

from scripts.core.analysis import style, tables
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["scores"]


def draw(tables_):
    """Figure of `tables_["scores"]`; one panel per training and forget metric, x optimiser steps, y score ×100."""
    scores = tables_["scores"]
    rows = tables.cells(scores[~scores.method.isin(tables.REFERENCES)])
    rows = rows[rows.step.notna() | (rows.checkpoint == tables.STOPPED)]
    metrics = panels.forget_metrics(rows)
    trainings = grouped(rows[rows.metric.isin(metrics)])
    if not trainings:
        return style.empty(panels.NOTHING.format("no training with checkpoints along it (checkpoint_at)"))
    schemes, known = tables.schemes(rows), panels.references(scores)
    looks = style.look(schemes)
    names = tables.label(rows[rows.checkpoint == ""])
    panes = [(training, metric) for training in trainings for metric in metrics]
    down, across = layout.wrapped(len(panes), 3)
    figure = style.figure(style.TEXT if across > 1 else style.COLUMN, 1.8 * down + 0.7)
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    several = len({training.corpus for training in trainings}) > 1
    for axis, (training, metric) in layout.filled(axes.flat, panes):
        panel(axis, trainings[training], metric, looks)
        layout.reference_lines(axis.axhline, known, training.corpus, metric)
        title = names.get(training, training.family)
        axis.set_title(f"{training.corpus}: {title}" if several else title)
        axis.set_xlabel("optimiser steps")
        axis.set_ylim(-4, 104)
        if axis in axes[:, 0]:
            axis.set_ylabel(f"{tables.title(rows, metric)} (×100)")
        elif len(metrics) > 1:
            axis.set_ylabel(tables.title(rows, metric))
    handles = [style.handle(name, linestyle="-", **look) for name, look in looks.items()]
    handles += layout.reference_handles()
    if (rows.checkpoint == tables.STOPPED).any():
        handles.append(style.handle(tables.STOPPED, color=style.INK, marker="o", markerfacecolor="none", markersize=7))
    style.legend(figure, handles)
    points = {key: f"{key.family} {key.checkpoint}" for key in panels.key_column(rows)}
    style.note(figure, [panels.whiskers(rows), *panels.absences(rows, points)])
    return figure


def grouped(rows) -> dict:
    """{key of the last checkpoint: rows} of trainings that have more than their last checkpoint."""
    found = {}
    for row in rows.itertuples():
        found.setdefault(tables.key(row)._replace(checkpoint=""), []).append(row)
    return {key: own for key, own in found.items() if {row.checkpoint for row in own} - {"", tables.STOPPED}}


def panel(axis, rows, metric: str, looks: dict) -> None:
    """Score against step for each scheme; a ring around the checkpoint that the rule picked (of several seeds: none is drawn)."""
    for scheme, look in looks.items():
        own = [row for row in rows if row.metric == metric and row.scheme == scheme and panels.valued(row)]
        line = sorted((row for row in own if row.checkpoint != tables.STOPPED), key=lambda row: row.step)
        axis.errorbar(
            [row.step for row in line], [row.value for row in line], yerr=panels.arms(line), **look,
            elinewidth=0.4, label=f"_{scheme}",
        )  # fmt: skip
        ring = [row for row in own if row.checkpoint == tables.STOPPED and row.step == row.step]
        if scheme == "full" and ring:
            axis.plot(
                [row.step for row in ring], [row.value for row in ring], "o", color=style.INK, markerfacecolor="none",
                markersize=7, label="_stop",
            )  # fmt: skip
