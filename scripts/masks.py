"""Collect the saliency masks of a sweep in one tidy table: a row per masked run and weight tensor.

usage: python -m scripts.masks --sweep RESULTS/sweep.json --results RESULTS --out RESULTS/masks.csv

Columns: what names the run, `objective` (method with the parameters that are not at their default), `saliency`,
`percentile`, `threshold` (of gradient norms, of modules or of rows), and per tensor `weight`, `layer` (empty outside the
decoder's layers), `module`, `norm` (of the forget loss's gradient at θ_0), `trained` (share of it that is trained, 0…1).
A masked run that has no mask.json has one row with the status "missing".
"""

import argparse
import re
import sys
from pathlib import Path

from scripts.core import process, registry
from scripts.core.analysis import columns, tables
from scripts.core.planning import sweep
from scripts.core.planning.grid import plan
from scripts.core.planning.plan import Run, named
from scripts.core.storage import read_json

NUMBERS = ["percentile", "threshold", "layer", "norm", "trained"]
INSIDE = re.compile(r"(?:^|.*?\.)(\d+)\.(.+)")


def place(weight: str) -> tuple[int | None, str]:
    """(layer, module) of a parameter's name: 'model.layers.3.mlp.up_proj.weight' → (3, 'mlp.up_proj'); no layer: None."""
    found = INSIDE.fullmatch(name := weight.removesuffix(".weight"))
    return (int(found[1]), found[2]) if found else (None, name.removeprefix("model."))


def objective(run: Run) -> str:
    """The run's method with the parameters that are not at their default, e.g. 'npo beta=0.02'."""
    known = registry.parameters("methods", run.spec["method"]["name"])
    own = {k: v for k, v in run.spec["method"].items() if k != "name" and v != known[k].get("default")}
    return " ".join([run.spec["method"]["name"], *(f"{name}={value}" for name, value in sorted(own.items()))])


def rows(run: Run, results) -> list[dict]:
    """The rows of one masked run. ValueError when its mask.json is not JSON."""
    training = run.spec["training"]
    shared = named(run) | {"objective": objective(run), "saliency": training["saliency"]}
    shared["percentile"] = training["percentile"]
    path = Path(results) / run.path / "mask.json"
    if not path.exists():
        return [shared | {"status": "missing"}]
    mask = read_json(path)
    found = []
    for entry in mask["weights"]:
        layer, module = place(entry["name"])
        found.append(
            shared
            | {"threshold": mask["threshold"], "weight": entry["name"], "layer": layer, "module": module}
            | {"norm": entry["norm"], "trained": entry["trained"], "status": "ok"}
        )
    return found


def table(planned, results):
    """The table (pandas) of a scripts.core.planning.plan.Plan; six significant digits, NaN where there is no number."""
    made = tables.frame([row for run in planned.masked() for row in rows(run, results)], columns.MASKS)
    for name in NUMBERS:
        made[name] = [float(f"{float(value):.6g}") if value else float("nan") for value in made[name]]
    return made


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.masks", description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", required=True, help="JSON of a resolved configuration, from which the runs are planned")
    parser.add_argument("--results", required=True, help="folder of the runs")
    parser.add_argument("--out", required=True, help="the .csv file that is written")
    options = parser.parse_args(argv)
    made = table(plan(sweep.resolved(options.sweep)), options.results)
    for name in NUMBERS:  # as text, since norms may be far below the six decimals of other tables
        made[name] = ["" if value != value else f"{value:.6g}" for value in made[name]]
    tables.write(made, options.out)
    print(f"{made.run.nunique()} masked runs, {len(made)} rows", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
