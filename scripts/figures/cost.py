"""What each model cost: time of its jobs by stage, bytes of its checkpoint and of the model under each scheme."""

import pandas as pd

from scripts.core.analysis import style, tables
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["costs"]
STAGES = {"train_hours": "training", "quantize_hours": "quantization", "evaluate_hours": "evaluation"}
STAGES |= {"mechanism_hours": "analysis of the weights"}
SHADES = dict(zip(STAGES, ("#444444", "#888888", "#BBBBBB", "#E4E4E4"), strict=True))  # greys: colours stand for schemes
CHECKPOINT = {"color": style.INK, "marker": "|", "markersize": 7, "markeredgewidth": 1.2}  # its mark
LIMIT = 40  # models
HOURS = ((1.0, "h"), (60.0, "min"), (3600.0, "s"))
BYTES = ((1e-9, "GB"), (1e-6, "MB"), (1e-3, "kB"))


def draw(tables_):
    """Figure of a row per model, means over seeds; left stacked job times, right bytes of checkpoint and quantized models."""
    costs = tables_["costs"].assign(checkpoint="")
    costs = costs[costs[[*STAGES, "checkpoint_bytes"]].apply(numbers).notna().any(axis=1)]
    if costs.method.isin(tables.REFERENCES).all():
        return style.empty(panels.NOTHING.format("no unlearned model whose jobs' times were recorded"))
    names = {key: key.method for key in panels.key_column(costs)} | tables.label(costs)
    several = len(tables.corpora(costs)) > 1
    keys = list(dict.fromkeys(panels.key_column(costs)))
    shown = keys[:LIMIT]
    hours, sizes = collect(costs)
    unit_h, scale_h = unit(max(sum(parts.values()) for parts in hours.values()), HOURS)
    largest = max([value for parts in sizes.values() for value in parts.values()], default=0.0)
    unit_b, scale_b = unit(largest, BYTES)
    figure = style.figure(style.TEXT, 0.17 * len(shown) + 1.3)
    left, right = figure.subplots(1, 2, sharey=True)
    looks = style.look(list(dict.fromkeys(name for parts in sizes.values() for name in parts if name)))
    draw_hours(left, [hours[key] for key in shown], scale_h)
    draw_sizes(right, [sizes[key] for key in shown], scale_b, looks)
    left.set_yticks(range(len(shown)), [f"{key.corpus}: {names[key]}" if several else names[key] for key in shown])
    device = " and ".join(dict.fromkeys(text.upper() for text in costs.device if text))
    left.set_xlabel(f"wall-clock time of its jobs ({unit_h}{', on ' + device if device else ''})")
    right.set_xlabel(f"size ({unit_b})")
    right.set_xlim(left=0)
    for axis in (left, right):
        layout.row_axis(axis, len(shown), stripes=False)
    timed = {stage for parts in hours.values() for stage in parts}
    bars = [style.handle(words, marker="s", color=SHADES[stage]) for stage, words in STAGES.items() if stage in timed]
    marks = [style.handle("checkpoint on disk", **CHECKPOINT)]
    style.legend(figure, bars + marks + [style.handle(f"model, {name}", **look) for name, look in looks.items()])
    notes = ["Means over seeds. Quantization and evaluation: sums over all schemes"]
    notes += [f"{len(keys) - LIMIT} more models are not drawn (costs.csv has them)"] if len(keys) > LIMIT else []
    notes += [f"No time of training: {names[key]}" for key in shown if "train_hours" not in hours[key]]
    style.note(figure, notes)
    return figure


def draw_hours(axis, models: list[dict], scale: float) -> None:
    """Bars of the models' hours, stage after stage."""
    ends = [0.0] * len(models)
    for stage, words in STAGES.items():
        widths = [hours.get(stage, 0.0) * scale for hours in models]
        axis.barh(range(len(models)), widths, left=ends, height=0.7, color=SHADES[stage], label=f"_{words}", linewidth=0)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]


def draw_sizes(axis, models: list[dict], scale: float, looks: dict) -> None:
    """Marks of the bytes of the models' checkpoints, and of the models under each scheme."""
    marks = {"": CHECKPOINT} | {name: {**look, "markersize": 3} for name, look in looks.items()}
    for name, mark in marks.items():
        points = [(sizes[name] * scale, y) for y, sizes in enumerate(models) if name in sizes] or [(float("nan"), 0)]
        axis.plot(*zip(*points, strict=True), linestyle="none", label=f"_{name or 'checkpoint'}", **mark)


def numbers(column):
    """A column as numbers, NaN where it has none."""
    return pd.to_numeric(column, errors="coerce")


def collect(costs) -> tuple[dict, dict]:
    """({key: {stage: hours}}, {key: {scheme: bytes, "": bytes of the checkpoint}}): means over seeds of what was recorded.

    Training and the look at the weights are once per run; quantization and evaluation are summed over its schemes.
    """
    hours, sizes = {}, {}
    values = costs.assign(**{name: numbers(costs[name]) for name in (*STAGES, "checkpoint_bytes", "model_bytes")})
    for key, own in values.groupby(tables.GROUP, sort=False, dropna=False):
        runs = own.groupby("run", sort=False)
        once = runs[["train_hours", "mechanism_hours", "checkpoint_bytes"]].first()
        found = once.join(runs[["quantize_hours", "evaluate_hours"]].sum(min_count=1)).mean()
        hours[key] = {stage: found[stage] for stage in STAGES if found[stage] == found[stage]}
        models = own.groupby("scheme", sort=False).model_bytes.mean().dropna()
        sizes[key] = dict(models) | ({"": found.checkpoint_bytes} if found.checkpoint_bytes == found.checkpoint_bytes else {})
    return hours, sizes


def unit(largest: float, units) -> tuple[str, float]:
    """(name, factor) of the first unit in which the largest value is at least 1; of the last one otherwise."""
    for factor, name in units:
        if largest * factor >= 1:
            return name, factor
    return units[-1][1], units[-1][0]
