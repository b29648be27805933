"""Where a finished sweep's time went: work, what surrounds it in its jobs, and what is left to Snakemake and idle cores.

usage: python -m benchmarks.overhead RESULTS [--cores 2] [--log .snakemake/log/….snakemake.log …]

Work is what no faster start could save, as each program records it of itself (`work_seconds`): the steps of a training with what
its losses need of the target, the computing of metrics, a quantization that is kept on disk, the comparison of weights. The rest of
a job is its start, imports, model loads, quantizing in memory, and writing. Jobs of the corpus, tables and figures record nothing
and count as work; the last line says what it is if they do not. A job counts with its threads. The wall time is that of
Snakemake's logs, from the time in a log's name to its last change, else from the first job's start to the last one's end, without
pauses of more than two minutes in which no job ran.
"""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from scripts.core.storage import read_json

PAUSE = 120
KINDS = ("training", "quantization", "evaluation", "mechanism", "corpus, tables, figures")


def worked(record: Path) -> float:
    """Seconds of work that a program recorded of itself. ValueError where there is no such number."""
    content = read_json(record)
    seconds = content.get("provenance", content).get("work_seconds")
    if seconds is None:
        raise ValueError(f"{record}: has no work_seconds; allowed: a sweep whose programs recorded them")
    return seconds


def records(results: Path, place: Path) -> tuple[str, list[Path]]:
    """(kind, files with a record) of the job whose benchmark is `place`; no files for jobs that record none of themselves."""
    run, name = results / place.parent, place.name
    if name.startswith("evaluate_"):
        return "evaluation", sorted(run.glob("eval/*/*.json"))
    if name.startswith("quantize_"):
        return "quantization", [run / "quantized" / name.removeprefix("quantize_") / "quantization.json"]
    if name == "mechanism":
        return "mechanism", [run / "mechanism.json"]
    if name in ("unlearn", "combine") or (results / place / "run.json").is_file():
        return "training", [(run if name in ("unlearn", "combine") else results / place) / "run.json"]
    return KINDS[-1], []


def jobs(results: Path) -> list[dict]:
    """[{"kind", "start", "end", "seconds", "threads", "work"}] of every job with a benchmark; times in seconds.

    Threads as in the demo: one for each job, two for a base model's training. Evaluations of one run share its metric files.
    """
    found, benchmarks = [], results / "benchmarks"
    for path in sorted(benchmarks.rglob("*.tsv")):
        seconds, end = took(path), path.stat().st_mtime
        place = path.relative_to(benchmarks).with_suffix("")
        kind, files = records(results, place)
        work = sum(map(worked, files)) if files else seconds
        if kind == "evaluation":
            work *= seconds / sum(took(other) for other in path.parent.glob("evaluate_*.tsv"))
        job = {"kind": kind, "start": end - seconds, "end": end, "seconds": seconds, "threads": 2 if place.name == "base" else 1}
        found.append(job | {"work": min(work, seconds)})
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
    """{"wall", "overhead": 1 − work / (wall × cores), "strict", "kinds": {kind: {"jobs", "busy", "work"}}}.

    Busy and work in core-seconds. "strict" is the overhead where jobs of the last kind are no work.
    """
    kinds = {kind: {"jobs": 0, "busy": 0.0, "work": 0.0} for kind in KINDS}
    for job in found:
        own, threads = kinds[job["kind"]], min(job["threads"], cores)
        own["jobs"] += 1
        own["busy"] += threads * job["seconds"]
        own["work"] += threads * job["work"]
    work = sum(own["work"] for own in kinds.values())
    shares = {"overhead": 1 - work / (wall * cores), "strict": 1 - (work - kinds[KINDS[-1]]["work"]) / (wall * cores)}
    return {"wall": wall, **shares, "kinds": kinds}


def table(totals: dict, cores: int) -> str:
    """The account as Markdown."""
    whole = totals["wall"] * cores
    busy, work = (sum(own[key] for own in totals["kinds"].values()) for key in ("busy", "work"))
    lines = ["| | jobs | core-seconds | share of all |", "| --- | --- | --- | --- |"]
    for kind, own in totals["kinds"].items():
        lines.append(f"| work: {kind} | {own['jobs']} | {own['work']:.0f} | {100 * own['work'] / whole:.1f} % |")
    lines.append(
        f"| around it in its jobs: start, imports, loads, writing | | {busy - work:.0f} | {100 * (busy - work) / whole:.1f} % |"
    )
    lines.append(f"| cores without a job: Snakemake, waiting | | {whole - busy:.0f} | {100 * (1 - busy / whole):.1f} % |")
    lines += ["", f"{totals['wall']:.0f} s on {cores} cores; (wall − work) / wall = {100 * totals['overhead']:.1f} %"]
    return "\n".join(lines) + f"; {100 * totals['strict']:.1f} % with {KINDS[-1]} as overhead"


def check(totals: dict, options) -> None:
    """ValueError where jobs took more than all cores had: the dates of the files are not those of the run."""
    busy, had = sum(own["busy"] for own in totals["kinds"].values()), totals["wall"] * options.cores
    if busy > 1.1 * had:
        raise ValueError(
            f"{options.results}: its jobs took {busy:.0f} core-seconds in {had:.0f}; "
            "allowed: a folder with the dates of its run (a copy by cp -a keeps them), and --cores as it ran"
        )


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
        totals = account(found, sum(map(logged, options.log)) or running(found), options.cores)
        check(totals, options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(totals, options.cores))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
