"""Which weights the forget loss is sensitive to: gradient norms at θ_0 by layer and module, and which of them the mask trains."""

from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from scripts.core.analysis import style
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["masks"]
COLOURS = colormaps["cividis"]
LIMIT = 8  # panels
KEY = ["corpus", "objective", "saliency", "percentile", "weights"]  # what a mask depends on: not on regularizer, lr or seed


def draw(tables_):
    """Figure of `tables_["masks"]`; one panel per distinct mask, x decoder layer, y module; colour norm, dot: share trained."""
    rows = tables_["masks"]
    present = rows[rows.status == "ok"]
    missing = rows[rows.status != "ok"]
    if present.empty:
        what = "masks of the masked runs" if len(missing) else "run with a saliency mask (saliency: module, row-fixed or row-step)"
        return style.empty(panels.NOTHING.format(f"no {what}"))
    runs = {key: list(dict.fromkeys(own.run)) for key, own in present.groupby(KEY, sort=False)}
    shown = {key: present[present.run == names[0]] for key, names in list(runs.items())[:LIMIT]}
    layers = {key: sorted(set(own.layer.dropna().astype(int))) for key, own in shown.items()}
    modules = {key: list(dict.fromkeys(own.module)) for key, own in shown.items()}
    most_layers, most_modules = (max(map(len, parts.values())) for parts in (layers, modules))
    down, across = layout.wrapped(len(shown), 3 if most_layers <= 6 else 1)
    width = style.TEXT if across > 1 else min(style.TEXT, 2.6 + 0.2 * most_layers)
    figure = style.figure(width, (0.15 * most_modules + 0.85) * down + 0.7)
    axes = figure.subplots(down, across, squeeze=False)
    titles = name(list(shown))
    for axis, key in layout.filled(axes.flat, list(shown)):
        panel(figure, axis, shown[key], layers[key], modules[key])
        axis.set_title(titles[key])
    handles = [style.handle("trained (area: share of its rows)", marker="o", markerfacecolor="white", markeredgecolor=style.INK)]
    if (present.norm <= 0).any():
        handles.append(style.handle("gradient is zero", marker="s", color=style.PALE))
    style.legend(figure, handles)
    notes = [
        f"The mask is that of {len(names)} runs: {titles[key]}" for key, names in runs.items() if key in titles and len(names) > 1
    ]
    if len(runs) > LIMIT:
        notes.append(f"{len(runs) - LIMIT} more masks are not drawn (masks.csv has them)")
    notes += [f"No mask: {run}" for run in dict.fromkeys(missing.run)]
    style.note(figure, notes)
    return figure


def name(keys: list[tuple]) -> dict[tuple, str]:
    """Titles of the panels: objective and mask, and corpus and precision where they differ among them."""
    several = {part: len({key[i] for key in keys}) > 1 for i, part in enumerate(KEY)}
    titles = {}
    for key in keys:
        corpus, objective, saliency, percentile, weights = key
        front = f"{corpus}: " if several["corpus"] else ""
        titles[key] = f"{front}{objective}, {saliency} P{percentile:g}" + (f", {weights}" if several["weights"] else "")
    return titles


def panel(figure, axis, rows, layers: list[int], modules: list[str]) -> None:
    """Cells of one mask; weights outside the decoder's layers stand in a column of their own, at the right."""
    positive = rows.norm[rows.norm > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1, 1)
    high = max(high, low * 1.01)
    shade = ScalarMappable(LogNorm(low, high), COLOURS)
    column = {layer: x for x, layer in enumerate(layers)}
    points = []
    for row in rows.itertuples():
        x, y = column.get(row.layer, len(layers)), modules.index(row.module)
        colour = shade.to_rgba(row.norm) if row.norm > 0 else style.PALE
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.6))
        points.append((x, y, row.trained))
    chosen = [point for point in points if point[2] > 0]
    axis.scatter(
        [x for x, _, _ in chosen], [y for _, y, _ in chosen], s=[22 * share for _, _, share in chosen],
        facecolor="white", edgecolor=style.INK, linewidth=0.4, zorder=3, label="_trained",
    )  # fmt: skip
    wide = len(layers) + bool(rows.layer.isna().any())
    step = -(-len(layers) // 16)
    ticks = [(column[layer], str(layer)) for layer in layers[::step]] + ([(len(layers), "other")] if wide > len(layers) else [])
    axis.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
    axis.set_yticks(range(len(modules)), modules)
    axis.set_xlim(-0.5, wide - 0.5)
    axis.set_ylim(len(modules) - 0.5, -0.5)
    axis.set_xlabel("decoder layer")
    axis.grid(False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(shade, ax=axis, pad=0.02, aspect=14)
    bar.set_label("gradient norm")
    bar.outline.set_linewidth(0.4)
    bar.ax.minorticks_off()
    if high < 100 * low:  # perhaps one power of ten or none lies between them
        ticks = [low, (low * high) ** 0.5, high]
        bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
