"""How the figures lay out their panels, and what several of them draw in one: stripes, lines of target and retrain."""

from scripts.core.analysis import style

REFERENCES = {"target": "-", "retrain": "--"}  # lines of the reference models


def bands(columns: list, across: int) -> list[list]:
    """Columns of panels, broken into rows of at most `across`."""
    return [columns[i : i + across] for i in range(0, len(columns), across)]


def filled(axes, band: list) -> list[tuple]:
    """(axis, column) of each panel of one row; the axes that a shorter band leaves over are hidden."""
    for axis in axes[len(band) :]:
        axis.set_visible(False)
    return list(zip(axes, band, strict=False))


def wrapped(count: int, across: int) -> tuple[int, int]:
    """(rows, columns) of a grid for `count` panels, at most `across` side by side."""
    columns = min(across, count)
    return -(-count // columns), columns


def row_axis(axis, count: int, stripes: bool = True) -> None:
    """Make an axis a list of `count` rows, the first on top; every other row gets a stripe, so that the eye keeps to its line."""
    for y in range(1, count, 2) if stripes else ():
        axis.axhspan(y - 0.5, y + 0.5, color="#F5F5F5", linewidth=0, zorder=0)
    axis.set_ylim(count - 0.5, -0.5)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)


def offsets(count: int) -> list[float]:
    """Places of `count` marks around the middle of a row."""
    return [0.6 * ((i + 0.5) / count - 0.5) for i in range(count)]


def reference_lines(line, known: dict, corpus: str, metric: str, linewidth: float = 0.8) -> None:
    """Target and retrain at full precision as lines across a panel.

    line: the panel's axhline or axvline. known: rows as `_panels.references` gives them.
    """
    for method, dashes in REFERENCES.items():
        row = known.get((corpus, method, metric, "full"))
        if row is not None:
            line(row.value, color=style.GREY, linewidth=linewidth, linestyle=dashes, label=f"_{method}", zorder=1)


def reference_handles(addition: str = "") -> list:
    """Legend entries of `reference_lines`."""
    return [style.handle(method + addition, color=style.GREY, linestyle=dashes) for method, dashes in REFERENCES.items()]
