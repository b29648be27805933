"""Recovery R of every cell under every scheme, as numbers with their intervals on a colour that is white at 0.

R = 0: the scheme changes nothing; R = 100 %: it gives back all that the target knows under the same scheme; below 0:
it forgets more.
"""

from collections import Counter

import matplotlib
from matplotlib.patches import Rectangle

from scripts.core.analysis import style, tables
from scripts.core.analysis.recovery import LEAD
from scripts.figures import _panels as panels

TABLES = ["recovery"]
COLOURS = matplotlib.colormaps["PuOr_r"]  # orange is recovery, purple the opposite; safe for colour-blind readers

HATCHED = {"facecolor": "white", "edgecolor": "#AAAAAA", "hatch": "////", "linewidth": 0.3}  # a cell without a value
BOXED = {"color": style.INK, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.4}}  # the word that stands in it

UNDEFINED = "undefined"


def draw(tables_):
    """Figure of `tables_["recovery"]`; one panel per corpus and forget metric."""
    rows = panels.unlearned(tables_["recovery"])
    rows = rows[rows.scheme != "full"]
    metrics = panels.forget_metrics(rows)
    rows = rows[rows.metric.isin(metrics)]
    if rows.empty:
        return style.empty(panels.NOTHING.format("no unlearned model under a scheme other than full precision"))
    names, schemes, corpora = tables.label(rows), tables.schemes(rows), tables.corpora(rows)
    cells = {corpus: [key for key in names if key.corpus == corpus] for corpus in corpora}
    # Intervals need two lines and about half an inch of width; where there is no room, numbers stand alone.
    widest = style.TEXT - 0.2 - 0.056 * max(map(len, names.values()))
    across = len(metrics) if len(schemes) * len(metrics) * 0.5 <= widest else 1
    cell_width = max(0.42, min(0.62, widest / (len(schemes) * across)))
    lines = 2 if sum(map(len, cells.values())) <= 60 else 1
    cell_height = 0.27 if lines == 2 else 0.14
    down = [(corpus, metric) for corpus in corpora for metric in metrics] if across == 1 else [(c, None) for c in corpora]
    heights = [cell_height * len(cells[corpus]) for corpus, _ in down]
    width = 0.4 + 0.056 * max(map(len, names.values())) + across * (len(schemes) * cell_width + 0.1) + 0.55
    figure = style.figure(min(style.TEXT, max(style.COLUMN, width)), sum(heights) + 0.75 * len(down) + 0.5)
    axes = figure.subplots(len(down), across, squeeze=False, height_ratios=heights)
    for i, (corpus, metric) in enumerate(down):
        for j, name in enumerate([metric] if metric else metrics):
            axis = axes[i][j]
            panel(axis, rows[(rows.corpus == corpus) & (rows.metric == name)], cells[corpus], schemes, lines)
            title = tables.title(rows, name)
            axis.set_title(f"{corpus}: {title}" if len(corpora) > 1 else title)
            axis.set_yticks(range(len(cells[corpus])), [names[key] for key in cells[corpus]] if j == 0 else [])
            axis.set_xticks(range(len(schemes)), schemes, rotation=30, ha="right", rotation_mode="anchor")
    shade = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-100, 100), COLOURS)
    bar = figure.colorbar(
        shade, ax=axes, shrink=min(1.0, 1.6 / sum(heights)) if sum(heights) > 1.6 else 1.0, pad=0.01, aspect=14, extend="both"
    )
    bar.set_label("recovery R (%)")
    bar.set_ticks([-100, -50, 0, 50, 100])
    bar.outline.set_linewidth(0.4)
    style.note(figure, explain(rows, names, lines))
    return figure


def panel(axis, rows, keys, schemes, lines) -> None:
    """Cells of one corpus and metric."""
    found = {(tables.key(row), row.scheme): row for row in rows.itertuples()}
    for y, key in enumerate(keys):
        for x, scheme in enumerate(schemes):
            row = found.get((key, scheme))
            look, text, words = number(row, intervals=lines == 2) if panels.recovers(row) else (HATCHED, BOXED, word(row))
            axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **look))
            printed = axis.text(x, y, words, ha="center", va="center", fontsize=style.SMALL, linespacing=0.95, **text)
            printed.set_in_layout(False)  # it lies inside the panel; measuring each would slow the layout down
    axis.set_xlim(-0.5, len(schemes) - 0.5)
    axis.set_ylim(len(keys) - 0.5, -0.5)
    axis.grid(False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def number(row, intervals: bool) -> tuple[dict, dict, str]:
    """(look of the cell, look of its text, text) of a recovery; with its interval where there is room."""
    colour = COLOURS((max(-1.0, min(1.0, row.R)) + 1) / 2)
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 0.5
    words = f"{100 * row.R:z.0f}"
    if intervals and row.R_low == row.R_low:
        words += f"\n[{100 * row.R_low:z.0f}, {100 * row.R_high:z.0f}]"
    look = {"facecolor": colour, "edgecolor": "white", "linewidth": 0.6}
    return look, {"color": "white" if dark else style.INK}, words.replace("-", "−")


def word(row) -> str:
    """Why a cell is empty, in a word."""
    if row is None:
        return "pruned"
    return row.R_reason.split(":")[0] or row.status


def explain(rows, names, lines) -> list[str]:
    """Small print: what brackets are, and the reason of each empty cell."""
    said = [panels.whiskers(rows, "Brackets")] if lines == 2 else []
    empty = rows[rows.R.isna()]
    undefined = empty[empty.R_reason.str.contains(LEAD, regex=False)]
    if len(undefined):
        said.append(
            f"{UNDEFINED} ({len(undefined)} of {len(rows)} cells): too little to recover: the target under the scheme is not"
            " clearly above the unlearned model at full precision (recovery.csv has the numbers)"
        )
    empty = empty.drop(undefined.index)
    words = {tables.key(row): {} for row in empty.itertuples()}
    for row in empty.itertuples():
        words[tables.key(row)].setdefault(shorten(row.R_reason), []).append(f"{row.scheme} {tables.TITLES[row.kind]}")
    several, planned = len(set(rows.corpus)) > 1, Counter(panels.key_column(rows))
    for key, reasons in words.items():
        for reason, where in reasons.items():
            every = len(where) == planned[key]
            place = "all schemes" if every else ", ".join(where)
            said.append(f"{key.corpus + ', ' if several else ''}{names[key]} ({place}): {reason}")
    return said


def shorten(reason: str) -> str:
    """A reason without file paths."""
    return reason.split(" (no ")[0] + " was not computed" if "/" in reason else reason
