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
from scripts.core.storage import read_json


def add_privleak(loaded: list[dict]) -> None:
    """Fill in PrivLeak, in place: it needs the retrain run's own file (same corpus, full precision, same texts)."""
    reference = {
        (cell["row"]["corpus"], cell["row"]["metric"]): cell
        for cell in loaded
        if cell["row"]["method"] == "retrain" and cell["row"]["scheme"] == "full"
    }
    cached = {
        key: (statistics.auc(*cell["texts"]), statistics.auc_replicates(*cell["texts"], cell["units"]))
        for key, cell in reference.items()
        if cell["texts"]
    }
    for cell in loaded:
        row = cell["row"]
        if row["kind"] != "privleak" or not cell["texts"]:
            continue
        key = row["corpus"], row["metric"]
        if key not in cached:
            retrain = reference.get(key)
            row |= scored.state(
                "missing",
                "PrivLeak needs the retrain run at full precision: " + (retrain["row"]["reason"] if retrain else "not there"),
            )
            continue
        ours, theirs = cell["texts"], reference[key]["texts"]
        if [len(part) for part in ours] != [len(part) for part in theirs] or cell["units"] != reference[key]["units"]:
            row |= scored.state("missing", "PrivLeak: the retrain run was scored on other texts")
            continue
        bottom, bottom_replicates = cached[key]
        top, top_replicates = statistics.auc(*ours), statistics.auc_replicates(*ours, cell["units"])
        value, low, high, reason = statistics.ratio(top, bottom, top_replicates, bottom_replicates, "AUC(retrain)")
        if value is None:
            row |= scored.state("not finite", reason)
            continue
        usable = np.where(bottom_replicates > statistics.EPS, bottom_replicates, np.nan)
        cell |= {"value": value - 1, "replicates": top_replicates / usable - 1}
        row["value"] = 100 * cell["value"]


def fill_interval(cell: dict, seeds: bool = False) -> None:
    """Write a cell's interval into its row, and what was drawn for it."""
    if cell["replicates"] is not None:
        low, high = (scored.shown(cell["row"], bound) for bound in statistics.interval(cell["replicates"]))
        name = "seeds, then " * seeds + ("units" if cell["units"] else "samples")
        cell["row"] |= {"low": low, "high": high, "interval": name}


def pooled(loaded: list[dict]) -> list[dict]:
    """One more cell per group of several seeds: the mean over those that have a value; the reason names those that have none."""
    groups = defaultdict(list)
    for cell in loaded:
        groups[tuple(cell["row"][name] for name in (*tables.GROUP, "scheme", "metric"))].append(cell)
    return [merge(group) for group in groups.values() if len(group) > 1]


def merge(group: list[dict]) -> dict:
    """The pooled cell of a group of seeds."""
    usable = [cell for cell in group if cell["value"] is not None]
    absent = [f"seed {cell['row']['seed']}: {cell['row']['reason']}" for cell in group if cell["value"] is None]
    first = group[0]["row"]
    row = first | {"seed": tables.POOLED, "run": selection.base(first).rsplit("/", 1)[0] + "/all"}
    row["step"] = first["step"] if len({cell["row"]["step"] for cell in group}) == 1 else None
    row |= {"value": None, "low": None, "high": None, "n": None, "interval": "", "reason": "; ".join(absent)}
    row["seeds"] = len(usable)
    row["split"] = next((cell["row"]["split"] for cell in group if cell["row"]["split"]), "")
    cell = {"row": row, "value": None, "replicates": None, "texts": None, "units": None, "seeds": usable}
    if not usable:
        states = {cell["row"]["status"] for cell in group}
        row["status"] = states.pop() if len(states) == 1 else "missing"
        return cell
    bits = [cell["row"].get("bits_per_weight") for cell in usable]
    cell["value"] = float(np.mean([cell["value"] for cell in usable]))
    row |= {"status": "ok", "value": scored.shown(row, cell["value"]), "n": usable[0]["row"]["n"]}
    row["bits_per_weight"] = float(np.mean(bits)) if all(isinstance(b, int | float) for b in bits) else None
    if len({cell["row"]["n"] for cell in usable}) > 1:
        row["reason"] = "; ".join([*absent, "no interval: seeds have different numbers of samples"])
    elif any(cell["units"] != usable[0]["units"] for cell in usable):
        row["reason"] = "; ".join([*absent, "no interval: seeds have different units"])
    elif all(cell["replicates"] is not None for cell in usable):
        many, cell["units"] = len(usable) > 1, usable[0]["units"]
        row |= {"units": usable[0]["row"]["units"]} if cell["units"] else {}
        cell["replicates"] = statistics.pool([c["replicates"] for c in usable]) if many else usable[0]["replicates"]
        fill_interval(cell, many)
    return cell


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
    loaded = [scored.load(cell, results) for cell in cells]
    add_privleak(loaded)
    for cell in loaded:
        fill_interval(cell)
    loaded += selection.stopped(loaded, stop) if stop else []
    loaded += pooled(loaded)
    rows = [cell["row"] for cell in loaded]
    return {"scores": tables.frame(rows, columns.SCORES), "recovery": tables.frame(recovery.rows(loaded), columns.RECOVERY)}


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
