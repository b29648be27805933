"""How far a sweep is: per axis, how many cells are done, running, failed, diverged or missing, and the disk they take.

Reads files alone, so it works beside a running Snakemake, after it died, and on any node; ten thousand cells take seconds.
A cell is a run under a scheme. It is *done* when all its metric files are there to their ends, *diverged* when its training did,
*running* while Snakemake holds the folder and has marked one of its outputs as being made, *failed* when a job left a log but no
output.
"""

import base64
import os
from collections import Counter, defaultdict
from pathlib import Path

from scripts.core import process
from scripts.core.planning import grid, sweep
from scripts.core.planning.plan import labels
from scripts.core.storage import ends, read_object

STATES = ("done", "running", "failed", "diverged", "missing")
AXES = ("corpus", "method", "regularizer", "lr", "weights", "seed", "scheme")


def listing(folder) -> set[str]:
    """Names in a folder; empty when there is none."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def size(folder) -> int:
    """Bytes of all files below a folder (what they occupy, not their apparent length)."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += size(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    except (FileNotFoundError, NotADirectoryError):
        pass
    return total


def being_made(folder) -> set[str]:
    """Outputs that a live Snakemake has marked as incomplete: paths as they stand in its rules."""
    state = Path(folder) / ".snakemake"
    if not listing(state / "locks"):
        return set()
    marks = (path for path in (state / "incomplete").rglob("*") if path.is_file())
    found = set()
    for path in marks:
        name = "".join(part.removeprefix("@") for part in path.relative_to(state / "incomplete").parts)
        try:
            found.add(base64.b64decode(name, altchars=b"_-").decode())
        except ValueError:
            continue
    return found


def states(plan, results: Path) -> list[tuple[dict, str]]:
    """(labels, state) of every cell; labels has the columns of AXES."""
    making, metrics = being_made("."), {f"{name}.json" for name in plan.config["metrics"]}
    found, known = [], {}
    for run, scheme in plan.cells:
        if run.path not in known:
            folder = results / run.path
            status = read_object(folder / "outcome.json").get("status")
            logs = listing(results / "logs" / run.path) or listing((results / "logs" / run.path).parent)
            known[run.path] = labels(run), status, logs
        columns, status, logs = known[run.path]
        prefix = f"{plan.config['results']}/{run.path}"
        if status == "diverged":
            state = "diverged"
        elif whole(results / run.path / "eval" / scheme, metrics):
            state = "done"
        elif any(f"{prefix}/{name}" in making for name in ("outcome.json", *(f"eval/{scheme}/{m}" for m in metrics))):
            state = "running"
        elif started(run, scheme, status, logs, plan.config):
            state = "failed"
        else:
            state = "missing"
        found.append((columns | {"scheme": scheme}, state))
    return found


def whole(folder: Path, names: set[str]) -> bool:
    """Whether a folder holds all these JSON files; one that was cut off, which the next start makes anew, is as good as none."""
    return names <= listing(folder) and all(ends(folder / name) for name in names)


def started(run, scheme: str, status, logs: set[str], config: dict) -> bool:
    """Whether a job of this cell has left a log: its training when there is no outcome, else its evaluation."""
    if status is None:
        return ("unlearn.log" if run.stage == "unlearn" else f"{run.stage}.log") in logs
    first = next(names[0] for names in grid.evaluations(config) if scheme in names)
    return f"evaluate_{first}.log" in logs


def table(cells: list[tuple[dict, str]]) -> str:
    """Counts of each state per value of each axis, as aligned text."""
    lines = [f"{'axis':12s} {'value':24s} {'cells':>7s} " + " ".join(f"{state:>9s}" for state in STATES)]
    for axis in (None, *AXES):
        counts = defaultdict(Counter)
        for columns, state in cells:
            counts[str(columns[axis]) if axis else ""][state] += 1
        for value, count in sorted(counts.items()):
            cell = f"{axis or 'all':12s} {value or ('-' if axis else ''):24s} {count.total():7d} "
            lines.append(cell + " ".join(f"{count[state] or '.':>9}" for state in STATES))
    return "\n".join(lines)


@process.guarded
def main(argv=None) -> int:
    """Print the table; exit code 0 whatever the state."""
    options = sweep.parser("status", __doc__, also=", or its sweep.json").parse_args(argv)
    plan = sweep.read(*options.config)
    results = Path(plan.config["results"])
    print(table(states(plan, results)))
    checkpoints = sum(size(results / run.path / "checkpoint") for run in plan.runs.values())
    resumable = sum(size(results / run.path / ".resume") for run in plan.runs.values())
    print(
        f"\ndisk: {size(results) / 1e9:.2f} GB in {results}, checkpoints {checkpoints / 1e9:.2f} GB,"
        f" resumable states {resumable / 1e9:.2f} GB"
    )
    return 0


if __name__ == "__main__":
    process.tell(main)
