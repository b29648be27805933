"""Which checkpoint of a training counts: the last one, and by MUSE's rule the first that forgot as much as the retrain model.

`evaluation.stop: retrain` picks, for each run with checkpoints along its training, the first (the last one included) whose forget
score at full precision is at or below that of the corpus's retrain model (Shi et al., arXiv 2407.06460, section 4). Its scores
stand in the tables once more, with `checkpoint` "stop: retrain", so that they are drawn beside those of the last checkpoint.
"""

import re
from collections import defaultdict
from dataclasses import replace

from scripts.core.analysis import tables
from scripts.core.analysis.scored import Score, state

POINT = re.compile(r"/(step|epoch)\d+$")  # how the path of a checkpoint along a training ends


def stopped(scores: list[Score], metric: str) -> list[Score]:
    """Copies of the scores of the picked checkpoints; without a value where none qualifies.

    metric: name of the forget score that decides, e.g. verbmem_f; lower is more forgotten.
    """
    runs, retrain = defaultdict(lambda: defaultdict(list)), {}
    for score in scores:
        row = score.row
        if row["method"] == "retrain" and row["scheme"] == "full" and row["metric"] == metric:
            retrain.setdefault(row["corpus"], score)
        runs[base(row)][row["checkpoint"]].append(score)
    found = []
    for points in runs.values():
        if set(points) != {""}:
            found += picked(points, retrain.get(next(iter(points.values()))[0].row["corpus"]), metric)
    return found


def base(row: dict) -> str:
    """Path of the training that a checkpoint belongs to; the one that was picked may be the last, whose path is the training's."""
    return POINT.sub("", row["run"]) if row["checkpoint"] else row["run"]


def order(name: str) -> float:
    """Place of a checkpoint along its training; the last one has no name."""
    return int(name.removeprefix("step").removeprefix("epoch")) if name else float("inf")


def picked(points: dict[str, list[Score]], retrain: Score | None, metric: str) -> list[Score]:
    """Scores of the first checkpoint at or below the retrain model's score."""
    last = points[""]
    if retrain is None or retrain.value is None:
        return [unpicked(score, f"{metric} of the retrain model at full precision is not there") for score in last]
    for name in sorted(points, key=order):
        for score in points[name]:
            decides = score.row["scheme"] == "full" and score.row["metric"] == metric and score.value is not None
            if decides and score.value <= retrain.value:
                return [replace(one, row=one.row | {"checkpoint": tables.STOPPED}) for one in points[name]]
    return [unpicked(score, f"no checkpoint's {metric} is at or below the retrain model's") for score in last]


def unpicked(score: Score, reason: str) -> Score:
    """A score without a value that says why."""
    empty = {"checkpoint": tables.STOPPED, "interval": "", **dict.fromkeys(("step", "value", "low", "high", "n"))}
    return Score(score.row | empty | state("missing", reason))
