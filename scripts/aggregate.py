"""Tidy tables from metric files: scores with intervals, and what quantization gives back.

Every cell of the sweep gets a row whether it has a score or not: a diverged or missing cell has an empty value and a
reason, never 0.

PrivLeak, pooled seeds (rows of seed "all"), K and R are those of leakage.py, pooling.py and recovery.py in scripts/core/analysis.
"""

import argparse
import sys
from pathlib import Path

from scripts.core import process
from scripts.core.analysis import columns, leakage, pooling, recovery, scored, selection, tables
from scripts.core.planning import grid, sweep
from scripts.core.storage import read_json


def aggregate(cells: list[dict], results, stop: str | None = None) -> dict:
    """{"scores", "recovery"}: the two tables (pandas) of a sweep whose cells are given as dicts (see the command's --cells).

    stop: the forget score by which scripts.core.analysis.selection picks checkpoints besides the last ones.
    """
    results = Path(results)
    for number, cell in enumerate(cells):
        cell = cell if isinstance(cell, dict) else {"run": cell}
        for name in ("run", "corpus", "method", "scheme", "metric", "kind"):
            if not isinstance(cell.get(name), str):
                raise ValueError(f"cells[{number}].{name}: {cell.get(name)!r} is not allowed; allowed: a text")
    scores = [scored.load(cell, results) for cell in cells]
    leakage.add_privleak(scores)
    for score in scores:
        scored.fill_interval(score)
    scores += selection.stopped(scores, stop) if stop else []
    scores += pooling.pooled(scores)
    rows = [score.row for score in scores]
    return {"scores": tables.frame(rows, columns.SCORES), "recovery": tables.frame(recovery.rows(scores), columns.RECOVERY)}


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
    cells = read_json(options.cells) if options.cells else grid.plan(config).rows()
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
