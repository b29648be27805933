"""What every cell took: costs.csv with hours of training, quantization and evaluation, and bytes of checkpoints and models.

Hours are wall-clock hours of the jobs' last successful attempts, from Snakemake's benchmarks, with the cores or GPUs that they
had. An evaluation job that served several schemes counts for each with an equal share. Bytes are those of the checkpoint's
files and of the model under the scheme (as a kernel would hold it, measured at evaluation; artifacts also on disk).
"""

import argparse
from collections import defaultdict
from pathlib import Path

from scripts.core import process
from scripts.core.analysis import columns, tables
from scripts.core.planning import grid, sweep
from scripts.core.planning.plan import named
from scripts.core.storage import ends, read_json


def hours(benchmark: Path) -> float | None:
    """Wall-clock hours in a benchmark file of Snakemake; None where it is missing or was cut off."""
    seconds = sweep.seconds(benchmark)
    return None if seconds is None else seconds / 3600


def first(*values):
    """The first that is not None, or None."""
    return next((value for value in values if value is not None), None)


def evaluation_hours(times: Path, scheme: str, held: list[str], config: dict) -> float | None:
    """Hours of evaluating a run, which the schemes `held` hold, under one of them.

    A job that serves several is named by one of them; those that may share a job count with equal shares of all their jobs,
    since a resolved configuration does not keep the order that decides.
    """
    schemes = config["schemes"]
    together = [name for name in held if grid.made_in(schemes[name]) == grid.made_in(schemes[scheme])]
    together = [scheme] if grid.schemes_per_job(config) == 1 else together
    found = [value for name in together if (value := hours(times / f"evaluate_{name}.tsv")) is not None]
    return sum(found) / len(together) if found else None


def device(run: Path) -> str:
    """What a run was trained on, cpu or cuda; empty where its record is missing or was cut off."""
    path = run / "run.json"
    return str(read_json(path).get("device", "")) if ends(path) else ""


def described(run: Path, scheme: str) -> dict:
    """What an evaluation recorded of the model under the scheme: {"bytes", "bytes_on_disk", …} or {}."""
    for path in sorted((run / "eval" / scheme).glob("*.json")):
        found = read_json(path).get("quantization") if ends(path) else None
        if found:
            return found
    return {}


def size(folder: Path) -> int | None:
    """Bytes of all files of a folder; None where there is none."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return sum(path.stat().st_size for path in files) if files else None


def collect(config: dict, results: Path) -> list[dict]:
    """One row per run and scheme of a resolved configuration; what is not known is None."""
    made, sizes, held = [], {}, defaultdict(list)
    cells = grid.plan(config).cells
    for run, scheme in cells:
        held[run.path].append(scheme)
    for run, scheme in cells:
        place, times = results / run.path, results / "benchmarks" / run.path
        if run.path not in sizes:
            sizes[run.path] = size(place / "checkpoint")
        model = described(place, scheme)
        row = named(run) | {"scheme": scheme, "device": device(place), "checkpoint_bytes": sizes[run.path]}
        row["train_hours"] = first(hours(times / "unlearn.tsv"), hours(times / "combine.tsv"), hours(times.with_suffix(".tsv")))
        row["quantize_hours"] = hours(times / f"quantize_{scheme}.tsv")
        row["evaluate_hours"] = evaluation_hours(times, scheme, held[run.path], config)
        row["mechanism_hours"] = hours(times / "mechanism.tsv")
        row |= {"model_bytes": model.get("bytes"), "artifact_bytes": model.get("bytes_on_disk")}
        made.append(row)
    return made


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.costs", description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", required=True, help="JSON of a resolved configuration, from which the cells are planned")
    parser.add_argument("--results", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, help="folder of costs.csv (default: that of the runs)")
    options = parser.parse_args(argv)
    made = collect(sweep.resolved(options.sweep), options.results)
    tables.write(tables.plain(made, columns.COSTS), (options.out or options.results) / "costs.csv")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
