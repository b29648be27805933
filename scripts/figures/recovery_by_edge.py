"""Recovery against where a scheme's innermost code ends, in units of how far the weights that moved reach.

What moved inside the innermost code keeps its code: where that code ends beyond the weights that moved, the scheme cannot see the
update, and gives back what was unlearned. With bf16 weights only weights near zero move, with fp32 weights those of every size.
"""

from statistics import fmean

from matplotlib.ticker import FuncFormatter, LogLocator

from scripts.core.analysis import style, tables
from scripts.figures import _panels as panels

TABLES = ["recovery", "mechanism"]


def draw(tables_):
    """Figure of R (%) of all unlearned models, colours for schemes and filling for the precision of weights; x edge / reach, from
    the tables."""
    rows, found = panels.unlearned(tables_["recovery"]), places(tables_["mechanism"])
    rows = rows[(rows.metric == panels.most_defined(rows)) & (rows.checkpoint == "") & (rows.scheme != "full") & rows.R.notna()]
    rows = rows.assign(place=[found.get((tables.key(row), row.scheme)) for row in rows.itertuples()])
    rows = rows[rows.place.notna()]
    if not len(rows):
        reasons = unknown(tables_["mechanism"]) or [
            "no unlearned model with a recovery, weights that moved and a scheme with codes"
        ]
        return style.empty(panels.NOTHING.format(reasons[0]))
    looks = style.look(tables.schemes(rows))
    kinds = [kind for kind in panels.LINES if kind in set(rows.weights)]
    figure = style.figure(style.TEXT, 2.9 + 0.06 * len(looks))
    axis = figure.subplots()
    for scheme, look in looks.items():
        for kind in kinds:
            own = list(rows[(rows.scheme == scheme) & (rows.weights == kind)].itertuples())
            axis.errorbar(
                [row.place for row in own], [100 * row.R for row in own], yerr=panels.recovery_arms(own), **look,
                **panels.filling(kind, look["color"]), linestyle="none", markersize=3, markeredgewidth=0.6, elinewidth=0.5,
                label=f"_{scheme} {kind}",
            )  # fmt: skip
    axis.axhline(0, color=style.INK, linewidth=0.5, zorder=1)
    axis.axvline(1, color=style.GREY, linewidth=0.8, zorder=1)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(LogLocator(2, numticks=12))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}"))
    axis.minorticks_off()
    bottom, top = axis.get_ylim()
    axis.set_ylim(max(bottom, -60), min(top, 130))
    axis.set_xlabel("end of the innermost code / reach of the weights that moved")
    axis.set_ylabel(f"recovery R of {panels.NAMES[rows.kind.iloc[0]]} (%)")
    fillings = [style.handle(f"{kind} weights", color=style.INK, marker="o", **panels.filling(kind, style.INK)) for kind in kinds]
    style.legend(figure, [*(style.handle(name, **look) for name, look in looks.items()), *fillings])
    style.note(figure, [panels.whiskers(rows), *unknown(tables_["mechanism"])])
    return figure


def places(mechanism) -> dict:
    """{(key of a model, scheme): where its innermost code ends over the reach of what moved}, the mean over seeds."""
    rows = mechanism[(mechanism.module == "all") & (mechanism.status == "ok") & (mechanism.edge > 0)].assign(checkpoint="")
    found = {}
    for row in rows[rows.reach > 0].itertuples():
        found.setdefault((tables.key(row), row.scheme), []).append(row.edge / row.reach)
    return {model: fmean(values) for model, values in found.items()}


def unknown(mechanism) -> list[str]:
    """A line for each run that an earlier version measured, which took no note of the reach."""
    runs = mechanism.run[
        (mechanism.module == "all") & (mechanism.status == "ok") & (mechanism.changed > 0) & mechanism.reach.isna()
    ]
    return [f"No reach: {run}: an earlier version measured it; remove its mechanism.json to have it measured anew" for run in runs]
