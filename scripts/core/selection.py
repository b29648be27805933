"""Which checkpoint of a training counts: the last one, and by MUSE's rule the first that forgot as much as the retrain model.

`evaluation.stop: retrain` picks, for each run with checkpoints along its training, the first (the last one included) whose forget
score at full precision is at or below that of the corpus's retrain model (Shi et al., arXiv 2407.06460, section 4). Its scores
stand in the tables once more, with `checkpoint` "stop: retrain", so that they are drawn beside those of the last checkpoint.
"""

from collections import defaultdict

from scripts.core import tables


def stopped(loaded: list[dict], metric: str) -> list[dict]:
    """Copies of the cells (as scripts.aggregate loads them) of the picked checkpoints; without a value where none qualifies.

    metric: name of the forget score that decides, e.g. verbmem_f; lower is more forgotten.
    """
    runs, retrain = defaultdict(lambda: defaultdict(list)), {}
    for cell in loaded:
        row = cell["row"]
        if row["method"] == "retrain" and row["scheme"] == "full" and row["metric"] == metric:
            retrain.setdefault(row["corpus"], cell)
        if row["method"] not in tables.REFERENCES:
            runs[base(row)][row["checkpoint"]].append(cell)
    found = []
    for points in runs.values():
        if set(points) != {""}:
            found += picked(points, retrain.get(next(iter(points.values()))[0]["row"]["corpus"]), metric)
    return found


def base(row: dict) -> str:
    """Path of the training that a checkpoint belongs to."""
    return row["run"].rsplit("/", 1)[0] if row["checkpoint"] else row["run"]


def order(name: str) -> float:
    """Place of a checkpoint along its training; the last one has no name."""
    return int(name.removeprefix("step").removeprefix("epoch")) if name else float("inf")


def picked(points: dict, retrain: dict | None, metric: str) -> list[dict]:
    """Cells of the first checkpoint at or below the retrain model's score."""
    last = points[""]
    if retrain is None or retrain["value"] is None:
        return [unpicked(cell, f"{metric} of the retrain model at full precision is not there") for cell in last]
    for name in sorted(points, key=order):
        for cell in points[name]:
            row = cell["row"]
            if row["scheme"] == "full" and row["metric"] == metric and cell["value"] is not None:
                if cell["value"] <= retrain["value"]:
                    return [one | {"row": one["row"] | {"checkpoint": tables.STOPPED}} for one in points[name]]
    return [unpicked(cell, f"no checkpoint's {metric} is at or below the retrain model's") for cell in last]


def unpicked(cell: dict, reason: str) -> dict:
    """A cell without a value that says why."""
    row = cell["row"] | {"checkpoint": tables.STOPPED, "step": None, "value": None, "low": None, "high": None, "n": None}
    row |= {"interval": "", "status": "missing", "reason": reason}
    return cell | {"row": row, "value": None, "replicates": None, "scores": None, "texts": None}
