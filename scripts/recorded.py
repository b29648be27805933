"""Recorded outputs of other runs as scores: `python -m scripts.recorded --out DIR METHOD_REGULARIZER=FILE …`.

A file has one entry per metric with its samples (MUSE's layout) and its corpus's name. Each metric is computed again from the
recorded texts and numbers and gets a metric file below DIR; DIR gets the tables that a sweep has (scores.csv, scores.parquet,
recovery.csv), intervals included. What a file does not hold stays missing: without a retrain run PrivLeak has no value.
"""

import argparse
import sys
from pathlib import Path

from scripts import aggregate
from scripts.core import process, registry
from scripts.core.analysis import scored, tables
from scripts.core.storage import digest, read_json, write_json
from scripts.rescore import entries

SETTING = "recorded"


def convert(name: str, path, scheme: str, out: Path) -> list[dict]:
    """Write the metric files of one recorded file; returns its cells, as the aggregation reads them."""
    method, _, regularizer = name.rpartition("_")
    content = read_json(path)
    corpus = content.get("corpus") if isinstance(content, dict) else None
    if not method or not isinstance(corpus, str):
        where = "name" if not method else "corpus"
        raise ValueError(f"{name}={path}: has no {where}; allowed: METHOD_REGULARIZER=FILE, a file that names its corpus")
    run = f"{corpus}/{method}_{regularizer}/{SETTING}/seed0"
    label = {"run": run, "corpus": corpus, "method": method, "regularizer": regularizer, "setting": SETTING, "seed": 0}
    cells = []
    for metric, part in entries({k: v for k, v in content.items() if k != "corpus"}, path).items():
        made = registry.load("metrics", part["kind"]).rescore(part)
        samples = part.get("samples") or part.get("scores")
        if isinstance(samples, list):
            samples = [one | new for one, new in zip(samples, made["samples"], strict=True)]
        split = scored.split({"metric": metric}, {})
        facts = {"metric": metric, "kind": part["kind"], "version": registry.constants("metrics", part["kind"])["VERSION"]}
        facts |= {"status": "ok", "split": split, "value": made["value"], "n": made["n"], "samples": samples}
        origin = {"recorded": Path(path).name, "digest": digest(part)}
        write_json(out / run / "eval" / scheme / f"{metric}.json", facts | {"provenance": origin})
        cells.append(label | {"scheme": scheme, "metric": metric, "kind": part["kind"], "split": split})
    return cells


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.recorded", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="METHOD_REGULARIZER=FILE", help="e.g. npo_klr=npo_klr.json")
    parser.add_argument("--scheme", default="full", help="what the models were run under (default: full)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the metric files and tables")
    options = parser.parse_args(argv)
    cells = []
    for pair in options.files:
        name, _, path = pair.partition("=")
        try:
            cells += convert(name, path, options.scheme, options.out)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"{pair}: lacks what its metric records ({error!r})") from error
    made = aggregate.aggregate(cells, options.out)
    for table, kind in (("scores", "csv"), ("scores", "parquet"), ("recovery", "csv")):
        tables.write(made[table], options.out / f"{table}.{kind}")
    print(f"{len(cells)} metrics of {len(options.files)} files", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
