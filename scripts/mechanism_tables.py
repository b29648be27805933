"""Tidy tables of what unlearning did to the weights: mechanism.csv and moved.csv, from the runs' mechanism.json.

mechanism.csv: one row per run, scheme and kind of layer ("all" for all quantized layers together, "rest" for what no scheme
quantizes), with the ratios of scripts.core.weights.update.ratios. moved.csv: histograms over all quantized layers of a run.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import median

from scripts.core import process
from scripts.core.analysis import columns, tables
from scripts.core.planning import sweep
from scripts.core.planning.grid import plan
from scripts.core.planning.plan import named
from scripts.core.storage import ends, read_json

ALL, REST = "all", "rest"


def kind(layer: str) -> str:
    """The kind of a layer, its last name: model.layers.0.mlp.up_proj → up_proj."""
    return layer.rsplit(".", 1)[-1]


def rows(label: dict, content: dict) -> list[dict]:
    """Rows of mechanism.csv of one run."""
    from scripts.core.weights import update

    if content["status"] != "ok":
        return [label | {"scheme": "", "module": ALL, "status": content["status"]}]
    modules = content["modules"]
    groups = {ALL: [name for name in modules if modules[name]["quantized"]]}
    for name in groups[ALL]:
        groups.setdefault(kind(name), []).append(name)
    rest = update.add([m for m in modules.values() if not m["quantized"]], update.SUMS)
    nothing = dict.fromkeys(update.SUMS, 0.0) | {"gd": None if rest["gd"] is None else 0.0}
    made = []
    for scheme, entry in content["schemes"].items():
        for group, names in groups.items():
            whole = update.add([modules[name] for name in names], update.SUMS)
            sums = update.add([entry["modules"][name] for name in names], update.SCHEME_SUMS)
            edges = [entry["modules"][name]["edge"] for name in names]
            found = update.ratios(whole, rest if group == ALL else nothing, sums)
            found |= {"n": whole["n"], "edge": None if None in edges else median(edges)}
            made.append(label | {"scheme": scheme, "module": group, "status": "ok"} | found)
    for scheme in content.get("left_out", []):
        made.append(label | {"scheme": scheme, "module": ALL, "status": "its quantizer tells no codes"})
    moved = {"n": rest["n"], "changed": rest["changed"] / rest["n"], "relative_step": (rest["d2"] / rest["w2"]) ** 0.5}
    made.append(label | {"scheme": "", "module": REST, "status": "ok"} | moved)
    return made


def histograms(run: str, content: dict) -> list[dict]:
    """Rows of moved.csv of one run: `what` is all, moved, steps, or, per scheme, crossed (scripts.core.weights.update)."""
    found = defaultdict(int)
    for name, module in content["modules"].items():
        if module["quantized"]:
            for what in ("all", "moved", "steps"):
                for bin_, count in module[what].items():
                    found["", what, int(bin_)] += count
            for scheme, entry in content["schemes"].items():
                for bin_, count in entry["modules"][name]["crossed"].items():
                    found[scheme, "crossed", int(bin_)] += count
    return [
        {"run": run, "scheme": scheme, "what": what, "log2": bin_ / 2, "count": count}
        for (scheme, what, bin_), count in sorted(found.items())
    ]


def collect(config: dict, results: Path) -> dict[str, list[dict]]:
    """{"mechanism", "moved"}: rows of every unlearned run of a resolved configuration; a run without a file has status missing."""
    made = {"mechanism": [], "moved": []}
    for run in plan(config).evaluated():
        if run.stage != "unlearn" or run.point:  # of a training, its end
            continue
        label = named(run)
        path = results / run.path / "mechanism.json"
        content = read_json(path) if ends(path) else {"status": "missing"}
        made["mechanism"] += rows(label, content)
        if content["status"] == "ok":
            made["moved"] += histograms(run.path, content)
    return made


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.mechanism_tables", description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", required=True, help="JSON of a resolved configuration, from which the runs are planned")
    parser.add_argument("--results", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, help="folder of mechanism.csv and moved.csv (default: that of the runs)")
    options = parser.parse_args(argv)
    made = collect(sweep.resolved(options.sweep), options.results)
    out = options.out or options.results
    # Six significant digits: shares of changed codes and ratios to a scheme's noise may be far below six decimals.
    tables.write(tables.plain(made["mechanism"], columns.MECHANISM), out / "mechanism.csv", decimals=None)
    tables.write(tables.plain(made["moved"], columns.MOVED), out / "moved.csv")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
