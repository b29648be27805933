"""Every score again from recorded texts and numbers, without a model: `python -m scripts.rescore FILE…`.

Reads metric files of this project, and files with one entry per metric (knowmem_f, knowmem_r, verbmem_f, privleak). For
each metric one JSON line goes to stdout: file, metric, n, mean (0…1; for PrivLeak the AUC of Min-40 %, for a perplexity
its logarithm), and max_abs_diff, the largest difference from anything recorded that follows from the rest: scores of
samples, means, AUCs, value. Recorded bootstrap intervals are not among these, as their random draws are not recorded.
Exit status: 0, 1 when a difference is above 1e-9, 2 when a file can't be read.
"""

import argparse
import json
import math

from scripts.core import process, registry
from scripts.core.storage import read_json

LARGEST = 1e-9


def difference(ours, theirs) -> float:
    """The largest difference of two nested values over what `ours` holds; infinite where `theirs` lacks it or has another
    kind of value.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return max((difference(ours[key], theirs[key]) if key in theirs else math.inf for key in ours), default=0.0)
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return math.inf
        return max((difference(*pair) for pair in zip(ours, theirs, strict=True)), default=0.0)
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        gap = abs(ours - theirs)
        return math.inf if math.isnan(gap) else gap
    return 0.0 if ours == theirs else math.inf


def kind(name: str) -> str:
    """The metric plugin of an entry called `name`, e.g. knowmem of knowmem_f; UnknownName if there is none."""
    return registry.require("metrics", name.rsplit("_", 1)[0] if name not in registry.names("metrics") else name, "metric")


def entries(content, path) -> dict[str, dict]:
    """{metric: content with "kind"} of a file in either format; ValueError for any other."""
    if isinstance(content, dict) and {"metric", "kind"} <= set(content):
        return {content["metric"]: content}
    parts = content if isinstance(content, dict) else {}
    recorded = {name: part for name, part in parts.items() if isinstance(part, dict) and ("samples" in part or "scores" in part)}
    found = {name: part | {"kind": kind(name)} for name, part in recorded.items()}
    if not found:
        raise ValueError(f"{path}: holds no metric; allowed: a metric file, or an object with an entry per metric")
    return found


def rescore(content: dict) -> dict:
    """{"n", "mean", "max_abs_diff"} of one metric's content. A metric without a score (diverged) has mean null."""
    if content.get("status", "ok") != "ok":
        wrong = content.get("value") is not None
        return {"n": 0, "mean": None, "max_abs_diff": math.inf if wrong else 0.0}
    plugin = registry.load("metrics", registry.require("metrics", content["kind"], "kind"))
    made = plugin.rescore(content)
    # A top-level aggregate may be absent from a file of another origin; what is there has to agree in every part.
    gap = max((difference(part, content[key]) for key, part in made.items() if key in content), default=math.inf)
    mean = made.get("mean", made["value"] / 100)
    mean = mean["rougeL"] if isinstance(mean, dict) else mean
    return {"n": made["n"], "mean": mean, "max_abs_diff": gap}


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.rescore", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE", help="metric file, or file with an entry per metric")
    worst = 0.0
    for path in parser.parse_args(argv).files:
        try:
            found = {name: rescore(content) for name, content in entries(read_json(path), path).items()}
        except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            raise ValueError(f"{path}: lacks what its metric records ({error!r})") from error
        for name, result in found.items():
            worst = max(worst, result["max_abs_diff"])
            gap = result["max_abs_diff"]
            line = {"file": str(path), "metric": name, **result, "max_abs_diff": gap if math.isfinite(gap) else None}
            print(json.dumps(line))
    return int(worst > LARGEST)


if __name__ == "__main__":
    process.tell(main)
