"""Which weights moved, and how far: |w_0| of all, of moved and of requantized weights, and |Δw|, against the schemes' bins."""

from matplotlib.ticker import FuncFormatter, LogLocator

from scripts.core.analysis import style, tables
from scripts.figures import _panels as panels

TABLES = ["moved", "mechanism"]
LIMIT = 6  # models: one per method, regularizer and precision of weights first, then more settings
BIN = 0.5  # octaves


def draw(tables_):
    """Figure of a row per model; left counts by |w_0|, right counts by |Δw|; both axes logarithmic, x in powers of ten."""
    moved, mechanism = tables_["moved"], tables_["mechanism"]
    rows = mechanism[(mechanism.module == "all") & (mechanism.status == "ok") & (mechanism.scheme != "full")].assign(checkpoint="")
    chosen, left_out = choose(rows[rows.run.isin(set(moved.run))])
    if not chosen:
        return style.empty(panels.NOTHING.format("no unlearned model whose weights were compared with the target's"))
    names, several = tables.label(rows), len(tables.corpora(rows)) > 1
    looks = style.look(list(dict.fromkeys(rows.scheme)))
    figure = style.figure(style.TEXT, 1.25 * len(chosen) + 0.9)
    axes = figure.subplots(len(chosen), 2, squeeze=False, sharex="col", sharey=True)
    for (left, right), (key, run) in zip(axes, chosen.items(), strict=True):
        edges = {row.scheme: row.edge for row in rows[rows.run == run].itertuples() if row.edge == row.edge and row.edge}
        panel(left, right, moved[moved.run == run], edges, looks)
        left.set_title(f"{key.corpus}: {names[key]}" if several else names[key], loc="left")
        left.set_ylabel("weights per bin")
    axes[-1][0].set_xlabel("|w| before unlearning")
    axes[-1][1].set_xlabel("|Δw| of those that moved")
    handles = [
        style.handle("all weights", linestyle="-", color=style.GREY, linewidth=3, alpha=0.4),
        style.handle("moved", linestyle="-", color=style.INK),
        *(style.handle(f"other code under {name}", linestyle="-", color=look["color"]) for name, look in looks.items()),
        style.handle("end of a scheme's innermost code", linestyle=(0, (4, 2)), color=style.GREY),
    ]
    style.legend(figure, handles)
    notes = [f"{left_out} more settings are not drawn (moved.csv has every run)"] if left_out else []
    for row in mechanism[mechanism.status != "ok"].itertuples():
        notes.append(f"No codes under {row.scheme}: {row.status}" if row.scheme else f"No weights: {row.run}: {row.status}")
    style.note(figure, notes)
    return figure


def panel(left, right, rows, edges: dict, looks: dict) -> None:
    """Histograms of one model's weights and of their steps. rows: of moved.csv; edges: {scheme: where its innermost code ends}."""
    steps(left, rows, "", "all", color=style.GREY, fill=True)
    steps(left, rows, "", "moved", color=style.INK)
    for scheme, look in looks.items():
        steps(left, rows, scheme, "crossed", color=look["color"])
    steps(right, rows, "", "steps", color=style.INK)
    for axis in (left, right):
        for scheme, edge in edges.items():
            axis.axvline(edge, color=looks[scheme]["color"], linestyle=(0, (4, 2)), linewidth=0.8, label=f"_edge {scheme}")
        axis.set_yscale("log")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(10, numticks=12))
        axis.xaxis.set_minor_locator(LogLocator(10, subs=[], numticks=12))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " ")))
        axis.minorticks_off()


def choose(rows) -> tuple[dict[tuple, str], int]:
    """({GROUP key: first run} of at most LIMIT settings, settings left out); a setting per method and precision comes first."""
    runs = {}
    for row in rows.itertuples():
        runs.setdefault(tables.key(row), row.run)
    kinds, order = set(), []
    for key in runs:
        kind = (key.corpus, key.method, key.regularizer, key.weights)
        order.append((kind in kinds, len(order), key))
        kinds.add(kind)
    picked = {key for _, _, key in sorted(order)[:LIMIT]}
    return {key: run for key, run in runs.items() if key in picked}, len(runs) - len(picked)


def steps(axis, rows, scheme: str, what: str, color: str, fill: bool = False) -> None:
    """One histogram as steps; `rows` are a run's of moved.csv, whose log2 is a bin's lower edge."""
    own = rows[(rows.scheme == scheme) & (rows.what == what)].sort_values("log2")
    counts = dict(zip(own.log2, own["count"], strict=True))
    if not counts:
        return
    first, last = min(counts), max(counts)
    bins = [first + BIN * i for i in range(round((last - first) / BIN) + 1)]
    heights = [counts.get(b, 0) for b in bins]
    edges = [2**b for b in [*bins, bins[-1] + BIN]]
    if fill:
        axis.stairs(heights, edges, baseline=0.5, fill=True, color=color, alpha=0.4, label=f"_{what} {scheme}")
    else:
        axis.stairs(heights, edges, baseline=0.5, color=color, linewidth=0.9, label=f"_{what} {scheme}")
