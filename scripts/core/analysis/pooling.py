"""Several seeds of one cell as one more row, seed "all": means over seeds, whose intervals draw seeds and then units.

R and K are formed of these means (recovery.py), as ratios of means; a perplexity is that of the mean NLL.
"""

from collections import defaultdict

import numpy as np

from scripts.core.analysis import scored, selection, statistics, tables
from scripts.core.analysis.scored import Score


def pooled(scores: list[Score]) -> list[Score]:
    """One more score per group of several seeds: the mean over those that have a value; the reason names those that have none."""
    groups = defaultdict(list)
    for score in scores:
        groups[tuple(score.row[name] for name in (*tables.GROUP, "scheme", "metric"))].append(score)
    return [merge(group) for group in groups.values() if len(group) > 1]


def merge(group: list[Score]) -> Score:
    """The pooled score of a group of seeds."""
    usable = [score for score in group if score.value is not None]
    absent = [f"seed {score.row['seed']}: {score.row['reason']}" for score in group if score.value is None]
    first = group[0].row
    row = first | {"seed": tables.POOLED, "run": selection.base(first).rsplit("/", 1)[0] + "/all"}
    row["step"] = first["step"] if len({score.row["step"] for score in group}) == 1 else None
    row |= {**dict.fromkeys(("value", "low", "high", "n")), "interval": "", "reason": "; ".join(absent), "seeds": len(usable)}
    row["split"] = next((score.row["split"] for score in group if score.row["split"]), "")
    if not usable:
        states = {score.row["status"] for score in group}
        row["status"] = states.pop() if len(states) == 1 else "missing"
        return Score(row)
    bits = [score.row.get("bits_per_weight") for score in usable]
    mean = Score(row, float(np.mean([score.value for score in usable])), seeds=usable)
    row |= {"status": "ok", "value": scored.shown(row, mean.value), "n": usable[0].row["n"]}
    row["bits_per_weight"] = float(np.mean(bits)) if all(isinstance(b, int | float) for b in bits) else None
    if len({score.row["n"] for score in usable}) > 1:
        row["reason"] = "; ".join([*absent, "no interval: seeds have different numbers of samples"])
    elif any(score.units != usable[0].units for score in usable):
        row["reason"] = "; ".join([*absent, "no interval: seeds have different units"])
    elif all(score.replicates is not None for score in usable):
        mean.units = usable[0].units
        row |= {"units": usable[0].row["units"]} if mean.units else {}
        mean.replicates = statistics.pool([score.replicates for score in usable])
        scored.fill_interval(mean)
    else:
        row["reason"] = "; ".join([*absent, *dict.fromkeys(s.row["reason"] for s in usable if s.replicates is None)])
    return mean
