"""Where a finished sweep's time went: work, what surrounds it in its jobs, and what is left to Snakemake and idle cores.

usage: python -m benchmarks.overhead RESULTS [--cores 2] [--log .snakemake/log/….snakemake.log …]

Work is what no faster start could save: the steps of a training (its progress bar's last time, in the job's log), the metrics of
an evaluation (from start to end, as each metric file records them to the second), a quantization that is kept on disk (its own
seconds), and jobs of other kinds as a whole. The rest of a job is its start, imports, model loads, quantizing in memory, and
writing. A job counts with its threads. The wall time is that of Snakemake's logs, from the time in a log's name to its last change,
else from the first job's start to the last one's end, without pauses of more than two minutes in which no job ran.
"""

import argparse
import re
import sys
from datetime import datetime
from pathlib import Path

from scripts.core.storage import read_json

PAUSE = 120
KINDS = ("training", "quantization", "evaluation", "other")
TRAININGS = ("unlearn", "base", "target", "retrain", "reinforced")
BAR = re.compile(r"\b(\d+)/\1 \[(?:(\d+):)?(\d+):(\d+)<")  # tqdm at its end: 500/500 [01:10<00:00


def trained(log: Path) -> float | None:
    """Seconds of a training's steps, from the finished progress bar in its log; None without one."""
    found = BAR.findall(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
    if not found:
        return None
    _, hours, minutes, seconds = found[-1]
    return 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds)


def evaluated(run: Path, jobs: list[float]) -> float:
    """The share of a run's evaluation jobs (seconds each) in which metrics were computed, 0 to 1."""
    spans = []
    for path in run.glob("eval/*/*.json"):
        times = read_json(path)["provenance"]
        spans.append(datetime.fromisoformat(times["ended"]) - datetime.fromisoformat(times["started"]))
    return min(1.0, sum(span.total_seconds() for span in spans) / sum(jobs))


def jobs(results: Path) -> list[dict]:
    """[{"kind", "start", "end", "seconds", "threads", "work"}] of every job with a benchmark; times in seconds.

    Threads as in the demo: one for each job, two for a base model's training. Work that nothing tells is all of a job.
    """
    found, shares, benchmarks = [], {}, results / "benchmarks"
    for path in sorted(benchmarks.rglob("*.tsv")):
        seconds, end = took(path), path.stat().st_mtime
        place = path.relative_to(benchmarks).with_suffix("")
        job = {"kind": "other", "start": end - seconds, "end": end, "seconds": seconds, "threads": 1, "work": seconds}
        made = results / place.parent / "quantized" / place.name.removeprefix("quantize_") / "quantization.json"
        if place.name.startswith("evaluate_"):
            if place.parent not in shares:
                shares[place.parent] = evaluated(results / place.parent, [took(p) for p in path.parent.glob("evaluate_*.tsv")])
            job |= {"kind": "evaluation", "work": shares[place.parent] * seconds}
        elif place.name in TRAININGS:
            work = trained((results / "logs" / place).with_suffix(".log"))
            job |= {"kind": "training", "threads": 2 if place.name == "base" else 1, "work": seconds if work is None else work}
        elif place.name.startswith("quantize_") and made.is_file():
            job |= {"kind": "quantization", "work": read_json(made).get("seconds", seconds)}
        found.append(job | {"work": min(job["work"], seconds)})
    return found


def took(path: Path) -> float:
    """Wall seconds in a benchmark file of Snakemake."""
    header, values = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[:2])
    return float(dict(zip(header, values, strict=True))["s"])


def running(found: list[dict]) -> float:
    """Seconds from the first start to the last end, without pauses."""
    total, last = 0.0, None
    for job in sorted(found, key=lambda job: job["start"]):
        if last is not None and job["start"] - last <= PAUSE:
            total += max(0.0, job["end"] - last)
        else:
            total += job["seconds"]
        last = max(last or 0.0, job["end"])
    return total


def logged(log: Path) -> float:
    """Seconds of one run of Snakemake: from the time in the log's name to the log's last change."""
    began = datetime.strptime(log.name.split(".")[0], "%Y-%m-%dT%H%M%S").timestamp()
    return log.stat().st_mtime - began


def account(found: list[dict], wall: float, cores: int) -> dict:
    """{"wall", "overhead": 1 − work / (wall × cores), "kinds": {kind: {"jobs", "busy", "work"}}}; busy and work in core-seconds."""
    kinds = {kind: {"jobs": 0, "busy": 0.0, "work": 0.0} for kind in KINDS}
    for job in found:
        own, threads = kinds[job["kind"]], min(job["threads"], cores)
        own["jobs"] += 1
        own["busy"] += threads * job["seconds"]
        own["work"] += threads * job["work"]
    work = sum(own["work"] for own in kinds.values())
    return {"wall": wall, "overhead": 1 - work / (wall * cores), "kinds": kinds}


def table(told: dict, cores: int) -> str:
    """The account as Markdown."""
    whole = told["wall"] * cores
    busy, work = (sum(own[key] for own in told["kinds"].values()) for key in ("busy", "work"))
    lines = ["| | jobs | core-seconds | share of all |", "| --- | --- | --- | --- |"]
    for kind, own in told["kinds"].items():
        lines.append(f"| work: {kind} | {own['jobs']} | {own['work']:.0f} | {100 * own['work'] / whole:.1f} % |")
    lines.append(
        f"| around it in its jobs: start, imports, loads, writing | | {busy - work:.0f} | {100 * (busy - work) / whole:.1f} % |"
    )
    lines.append(f"| cores without a job: Snakemake, waiting | | {whole - busy:.0f} | {100 * (1 - busy / whole):.1f} % |")
    return "\n".join([*lines, "", f"{told['wall']:.0f} s on {cores} cores; (wall − work) / wall = {100 * told['overhead']:.1f} %"])


def main(argv=None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="results folder of a sweep, where it ran")
    parser.add_argument("--cores", type=int, default=2, help="cores that Snakemake was given")
    parser.add_argument("--log", type=Path, nargs="+", default=[], help="Snakemake's logs of the sweep")
    options = parser.parse_args(argv)
    try:
        found = jobs(options.results)
        if not found:
            raise ValueError(f"{options.results}: no benchmarks; allowed: the results folder of a sweep that ran")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    wall = sum(map(logged, options.log)) or running(found)
    print(table(account(found, wall, options.cores), options.cores))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
