"""One look for all figures: a paper's column widths, colours for colour-blind readers, files that repeat byte for byte.

Importing this module sets matplotlib's defaults. Text is at least 6 pt at the size at which a figure is made (7 in:
the text's width; 3.4 in: a column). Colours are those of Okabe and Ito (Color Universal Design, 2008); marker shapes
repeat what colours say.
"""

import textwrap
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.core.storage import whole_file

COLUMN, TEXT = 3.4, 7.0  # inches
SMALL, NORMAL = 6.0, 7.0  # points
EMPTY = "nothing-to-draw"  # id of the text in the SVG of such a figure
INK, GREY, PALE = "#000000", "#666666", "#DDDDDD"
OKABE_ITO = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WEIGHTS = {"bf16": "#D55E00", "fp32": "#0072B2"}

matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",  # ships with matplotlib, so figures look the same everywhere
        "font.size": NORMAL,
        "axes.titlesize": NORMAL,
        "axes.labelsize": 6.5,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "legend.fontsize": SMALL,
        "legend.frameon": False,
        "legend.handlelength": 1.4,
        "legend.columnspacing": 1.2,
        "axes.linewidth": 0.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": PALE,
        "grid.linewidth": 0.4,
        "xtick.major.width": 0.5,
        "ytick.major.width": 0.5,
        "xtick.major.size": 2,
        "ytick.major.size": 2,
        "lines.linewidth": 0.8,
        "lines.markersize": 3.5,
        "hatch.linewidth": 0.4,
        "figure.dpi": 150,
        "savefig.dpi": 300,
        "svg.fonttype": "path",  # glyphs as outlines: no viewer needs the font
        "svg.hashsalt": "unlearning under quantization",
        "pdf.fonttype": 42,
    }
)


def figure(width: float = TEXT, height: float = 3.0) -> Figure:
    """An empty figure (inches) that lays itself out; not known to pyplot, so nothing has to be closed."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def empty(message: str) -> Figure:
    """A figure for a sweep that has nothing to show yet; it says so."""
    made = figure(COLUMN, 0.8)
    said = "\n".join(textwrap.wrap(message, 60))
    made.text(0.5, 0.5, said, ha="center", va="center", fontsize=NORMAL, color=GREY, gid=EMPTY)
    return made


def look(names) -> dict[str, dict]:
    """{name: {"color", "marker"}} for scheme or method names, in their order; shapes move on when colours start again."""
    count = len(OKABE_ITO)
    return {
        name: {"color": OKABE_ITO[i % count], "marker": MARKERS[(i + i // count) % len(MARKERS)]} for i, name in enumerate(names)
    }


def note(made: Figure, lines: list[str], limit: int = 8) -> None:
    """Small print below a figure: one line per thing that is missing and why, at most `limit` of them."""
    shown = list(dict.fromkeys(line for line in lines if line))
    if len(shown) > limit:
        shown = [*shown[:limit], f"… and {len(shown) - limit} more without a value (see scores.csv)"]
    if shown:
        wide = int(made.get_figwidth() * 20)
        wrapped = [piece for line in shown for piece in textwrap.wrap(line, wide, subsequent_indent="   ")]
        made.supxlabel("\n".join(wrapped), fontsize=SMALL, color=GREY, x=0.01, ha="left", multialignment="left")


def legend(made: Figure, handles: list) -> None:
    """One legend above all panels, in as many columns as fit the figure's width."""
    longest = max(len(handle.get_label()) for handle in handles)
    fit = max(1, int(made.get_figwidth() / (0.38 + 0.052 * longest)))
    made.legend(handles=handles, loc="outside upper center", ncols=min(fit, len(handles)))


def handle(label: str, **look) -> Line2D:
    """A legend entry that is a marker or a line."""
    return Line2D([], [], label=label, **({"linestyle": "none"} | look))


def save(made: Figure, prefix) -> list[Path]:
    """Write PREFIX.svg and PREFIX.pdf, each atomically and without a date; returns their paths."""
    made.draw_without_rendering()  # lays out once; without this each format would
    made.set_layout_engine("none")
    written = []
    for kind, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
        path = Path(f"{prefix}.{kind}")
        with whole_file(path) as file:
            made.savefig(file, format=kind, metadata=metadata)
        written.append(path)
    return written
