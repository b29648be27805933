"""Tidy tables from metric files: scores with intervals, and what quantization gives back.

Every cell of the sweep gets a row whether it has a score or not: a diverged or missing cell has an empty value and a
reason, never 0.

K and R are those of scripts/core/recovery.py.
PrivLeak = (AUC(unlearned) − AUC(retrain)) / AUC(retrain), AUC of Min-40 % between forget and holdout texts; retrain
  at full precision.
Seeds are pooled in rows of their own (seed "all"): R and K there are ratios of means over seeds, a perplexity is that of the
mean NLL.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from scripts.core import columns, process, recovery, scored, selection, statistics, sweep, tables
from scripts.core.scored import Score
from scripts.core.storage import read_json


def add_privleak(scores: list[Score]) -> None:
    """Fill in PrivLeak, in place: it needs the retrain run's own file (same corpus, full precision, same texts)."""
    retrain = {
        (score.row["corpus"], score.row["metric"]): score
        for score in scores
        if score.row["method"] == "retrain" and score.row["scheme"] == "full"
    }
    known = {
        key: (statistics.auc(*score.texts), statistics.auc_replicates(*score.texts, score.units))
        for key, score in retrain.items()
        if score.texts
    }
    for score in scores:
        row, texts = score.row, score.texts
        if row["kind"] != "privleak" or not texts:
            continue
        key = row["corpus"], row["metric"]
        if key not in known:
            reason = retrain[key].row["reason"] if key in retrain else "not there"
            row |= scored.state("missing", f"PrivLeak needs the retrain run at full precision: {reason}")
            continue
        theirs = retrain[key]
        if [len(part) for part in texts] != [len(part) for part in theirs.texts] or score.units != theirs.units:
            row |= scored.state("missing", "PrivLeak: the retrain run was scored on other texts")
            continue
        bottom, bottom_replicates = known[key]
        top, top_replicates = statistics.auc(*texts), statistics.auc_replicates(*texts, score.units)
        value, _, _, reason = statistics.ratio(top, bottom, top_replicates, bottom_replicates, "AUC(retrain)")
        if value is None:
            row |= scored.state("not finite", reason)
            continue
        usable = np.where(bottom_replicates > statistics.EPS, bottom_replicates, np.nan)
        score.value, score.replicates = value - 1, top_replicates / usable - 1
        row["value"] = 100 * score.value


def fill_interval(score: Score) -> None:
    """Write a score's interval into its row, and what was drawn for it."""
    if score.replicates is not None:
        low, high = (scored.shown(score.row, bound) for bound in statistics.interval(score.replicates))
        drawn = "seeds, then " * (len(score.seeds) > 1) + ("units" if score.units else "samples")
        score.row |= {"low": low, "high": high, "interval": drawn}


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
        several = len(usable) > 1
        mean.replicates = statistics.pool([score.replicates for score in usable]) if several else usable[0].replicates
        fill_interval(mean)
    else:
        row["reason"] = "; ".join([*absent, *dict.fromkeys(s.row["reason"] for s in usable if s.replicates is None)])
    return mean


def aggregate(cells: list[dict], results, stop: str | None = None) -> dict:
    """{"scores", "recovery"}: the two tables (pandas) of a sweep whose cells are given as dicts (see the command's --cells).

    stop: the forget score by which scripts.core.selection picks checkpoints besides the last ones.
    """
    results = Path(results)
    for number, cell in enumerate(cells):
        cell = cell if isinstance(cell, dict) else {"run": cell}
        for name in ("run", "corpus", "method", "scheme", "metric", "kind"):
            if not isinstance(cell.get(name), str):
                raise ValueError(f"cells[{number}].{name}: {cell.get(name)!r} is not allowed; allowed: a text")
    scores = [scored.load(cell, results) for cell in cells]
    add_privleak(scores)
    for score in scores:
        fill_interval(score)
    scores += selection.stopped(scores, stop) if stop else []
    scores += pooled(scores)
    rows = [score.row for score in scores]
    return {"scores": tables.frame(rows, columns.SCORES), "recovery": tables.frame(recovery.rows(scores), columns.RECOVERY)}


def sweep_cells(config: dict) -> list[dict]:
    """The cells of a resolved configuration, with each metric's split."""
    from scripts.core.grid import plan

    metrics = config["metrics"]
    return [row | {"split": metrics[row["metric"]].get("split", "")} for row in plan(config).rows()]


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.aggregate", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--cells", help="JSON list with one object per run, scheme and metric")
    source.add_argument("--sweep", help="JSON of a resolved configuration, from which the cells are planned")
    parser.add_argument("--results", required=True, help="folder of the runs")
    parser.add_argument("--out", required=True, help="folder of scores.parquet, scores.csv and recovery.csv")
    options = parser.parse_args(argv)
    config = sweep.resolved(options.sweep) if options.sweep else {}
    cells = read_json(options.cells) if options.cells else sweep_cells(config)
    if not isinstance(cells, list):
        raise ValueError(f"cells: {type(cells).__name__} is not allowed; allowed: a list of objects")
    stopping = config.get("evaluation", {})
    made = aggregate(cells, options.results, stopping.get("stop_metric") if stopping.get("stop") == "retrain" else None)
    out = Path(options.out)
    tables.write(made["scores"], out / "scores.parquet")
    tables.write(made["scores"], out / "scores.csv")
    tables.write(made["recovery"], out / "recovery.csv")
    counted = made["scores"].status.value_counts().to_dict()
    print(f"{len(made['scores'])} scores:", ", ".join(f"{n} {status}" for status, n in counted.items()), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
