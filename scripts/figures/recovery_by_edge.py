"""Recovery against the width of a scheme's innermost code, in units of the weights that bf16 lets the learning rate move.

A step of about the learning rate changes a bf16 weight only below 2⁸ to 2⁹ times the rate (bf16 has 8 significant bits). Where the
innermost code reaches further than that, what moved keeps its code, and the scheme gives back what was unlearned.
"""

from matplotlib.ticker import FuncFormatter, LogLocator

from scripts.core.analysis import style, tables
from scripts.figures import _panels as panels

TABLES = ["recovery", "mechanism"]
BITS = 8  # significant bits of bf16


def draw(tables_):
    """Figure of R (%) of all unlearned models; a panel per precision of weights, x edge / (2⁸ · lr), both from the tables."""
    rows, edges = panels.unlearned(tables_["recovery"]), innermost(tables_["mechanism"])
    rows = rows[(rows.metric == panels.most_defined(rows)) & (rows.checkpoint == "") & (rows.scheme != "full") & rows.R.notna()]
    places = [place(row, edges) for row in rows.itertuples()]
    rows = rows.assign(place=places)[[place is not None for place in places]]
    if not len(rows):
        return style.empty(panels.NOTHING.format("no unlearned model with a recovery, a learning rate and a scheme that has a bin"))
    looks = style.look(tables.schemes(rows))
    kinds = [kind for kind in panels.LINES if kind in set(rows.weights)]
    figure = style.figure(style.TEXT if len(kinds) > 1 else style.COLUMN, 2.6 + 0.06 * len(looks))
    axes = figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        panel(axis, rows[rows.weights == kind], looks)
        axis.set_title(f"{kind} weights")
        axis.set_xlabel("end of innermost code / (2⁸ · learning rate)")
    bottom, top = axes[0].get_ylim()
    axes[0].set_ylim(max(bottom, -60), min(top, 130))
    axes[0].set_ylabel(f"recovery R of {panels.NAMES[rows.kind.iloc[0]]} (%)")
    band = style.handle("where a step stops moving bf16 weights", linestyle="-", color=style.PALE, linewidth=5)
    style.legend(figure, [*(style.handle(name, **look) for name, look in looks.items()), band])
    style.note(figure, [panels.whiskers(rows)])
    return figure


def innermost(mechanism) -> dict:
    """{(key of a model, scheme): where its innermost code ends, |w|}."""
    rows = mechanism[(mechanism.module == "all") & (mechanism.status == "ok") & (mechanism.edge > 0)].assign(checkpoint="")
    return {(tables.key(row), row.scheme): row.edge for row in rows.itertuples()}


def place(row, edges: dict) -> float | None:
    """x of a row; None without an edge or a learning rate."""
    edge, rate = edges.get((tables.key(row), row.scheme)), panels.rate(row.lr)
    return edge / (2**BITS * rate) if edge and rate else None


def panel(axis, rows, looks) -> None:
    """Marks with intervals of the models of one precision of weights."""
    axis.axvspan(1, 2, color=style.PALE, zorder=0)
    for scheme, look in looks.items():
        own = list(rows[rows.scheme == scheme].itertuples())
        axis.errorbar(
            [row.place for row in own], [100 * row.R for row in own], yerr=panels.recovery_arms(own), **look,
            linestyle="none", markersize=3, elinewidth=0.5, label=f"_{scheme}",
        )  # fmt: skip
    axis.axhline(0, color=style.INK, linewidth=0.5, zorder=1)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(LogLocator(2, numticks=7))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.minorticks_off()
