"""Seconds of a dry run of a large sweep against a bare Snakefile that asks for as many jobs.

usage: python -m benchmarks.dry_run [--cells 10000] [--pairs 3]

Two bare workflows: `files` has the same jobs with the same inputs, outputs, logs and benchmarks, and nothing else (no settings,
parameters or resources); `jobs` has as many jobs in the same three layers, each with one input and one output.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
METHODS, REGULARIZERS = ("ga", "npo"), ("none", "gdr", "klr")
SCHEMES, METRICS = ("full", "rtn_int4"), ("verbmem_f", "knowmem_f", "knowmem_r", "privleak")
# What no bare job makes: the corpus, the target, the scheme files and the programs.
CORPUS, TARGET = ["given/manifest.json", "given/data"], ["given/target.json", "given/target"]
FILES = [f"given/{scheme}.json" for scheme in SCHEMES]
PROGRAMS = {"unlearn": "given/unlearn.py", "evaluate": "given/evaluate.py"}

BARE = """
RUNS = {runs}
rule all:
    input: {wanted}
rule spec:
    output: "r/{{run}}/spec.json"
    shell: "touch {{output}}"
rule unlearn:
    input: {needed}
    output: {trained}
    shell: "touch {{output}}"
rule evaluate:
    input: {read}
    output: {scored}
    shell: "touch {{output}}"
"""


def sweep(cells: int) -> dict:
    """A configuration of about so many cells: the tests' micro sweep with more learning rates and seeds."""
    config = yaml.safe_load((ROOT / "tests/workflow/micro.yaml").read_text(encoding="utf-8"))
    runs = max(1, round(cells / len(SCHEMES) / len(METHODS) / len(REGULARIZERS)))
    rates = [f"{digit}e-{power}" for power in (5, 6) for digit in range(1, 10)][: max(1, min(18, runs // 4))]
    grid = {"lr": rates, "seed": list(range(max(1, round(runs / len(rates)))))}
    config["sweep"] = [{"corpus": "people", "method": list(METHODS), "regularizer": list(REGULARIZERS), **grid}]
    return config


def bare(runs: int, files: bool) -> str:
    """A Snakefile of three jobs for each run."""
    parts = {
        "needed": ["r/{run}/spec.json"],
        "trained": ["r/{run}/outcome.json"],
        "read": ["r/{run}/outcome.json"],
        "scored": ["r/{run}/scores.json"],
        "wanted": ["r/{run}/scores.json"],
    }
    if files:
        trained = [f"r/{{run}}/{name}" for name in ("outcome.json", "run.json", "checkpoint")]
        scored = [f"r/{{run}}/eval/{scheme}/{metric}.json" for scheme in SCHEMES for metric in METRICS]
        parts["needed"] += [*CORPUS, *TARGET, PROGRAMS["unlearn"]]
        parts["read"] = [trained[0], trained[2], TARGET[1], *CORPUS, *FILES, PROGRAMS["evaluate"]]
        parts |= {"trained": trained, "scored": scored, "wanted": scored}
    quoted = {name: ", ".join(f'"{path}"' for path in paths) for name, paths in parts.items()}
    quoted["wanted"] = f"expand([{quoted['wanted']}], run=RUNS)"
    if files:
        for name, last in (("trained", "r/{run}/checkpoint"), ("read", "given/data")):
            quoted[name] = quoted[name].replace(f'"{last}"', f'{"directory" if name == "trained" else "ancient"}("{last}")')
    text = BARE.format(runs=[f"m_{k}/lr/seed0" for k in range(runs)], **quoted)
    if files:
        for rule in ("spec", "unlearn", "evaluate"):
            end = f"rule {rule}:\n"
            text = text.replace(end, f'{end}    log: "r/logs/{{run}}/{rule}.log"\n', 1)
            if rule != "spec":
                text = text.replace(end, f'{end}    benchmark: "r/benchmarks/{{run}}/{rule}.tsv"\n', 1)
    return text


def prepare(folder: Path, cells: int) -> dict[str, list[str]]:
    """{"ours", "files", "jobs"}: command lines of the three dry runs, their files written below `folder`."""
    config = sweep(cells)
    block = config["sweep"][0]
    runs = len(METHODS) * len(REGULARIZERS) * len(block["lr"]) * len(block["seed"])
    commands = {}
    for name in ("ours", "files", "jobs"):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        snakefile, more = ROOT / "Snakefile", ["scores", "--configfile", str(place / "sweep.yaml")]
        if name == "ours":
            (place / "sweep.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        else:
            snakefile, more = place / "Snakefile", []
            snakefile.write_text(bare(runs, name == "files"), encoding="utf-8")
            (place / "given").mkdir(exist_ok=True)
            for path in (*CORPUS, *TARGET, *FILES, *PROGRAMS.values()):
                (place / path).touch()
        fixed = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", "--cores", "1", "--snakefile", str(snakefile)]
        commands[name] = [*fixed, "--directory", str(place), *more]
    return commands


def seconds(command: list[str]) -> float:
    """Wall time of one dry run; RuntimeError with its output when it fails."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - began


def main(argv=None) -> int:
    """Print seconds of each run and the ratios of each round."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dry_run", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10000)
    parser.add_argument("--pairs", type=int, default=3, help="rounds of all three")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        commands, rounds = prepare(Path(folder), options.cells), []
        for _ in range(options.pairs):
            rounds.append({name: seconds(command) for name, command in commands.items()})
            print(", ".join(f"{name} {took:.1f} s" for name, took in rounds[-1].items()), flush=True)
    for name in ("files", "jobs"):
        ratios = [took["ours"] / took[name] for took in rounds]
        print(f"ours / bare with the same {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
