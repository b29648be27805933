"""What a sweep will cost before it starts: cells, trainings, evaluations, disk, GPU hours.

Times come from the benchmarks that Snakemake recorded in the results folder: those of the same kind for the same corpus, else for
another corpus, scaled by the size of the model; else from the assumptions printed with the table (`resources.hours_per_billion`,
evaluation at a tenth of it per scheme).
Disk is what the kept checkpoints and quantized models take, by their number of weights and stored precision; the cache of downloads
is not in it.
"""

import re
from collections import Counter, defaultdict
from pathlib import Path

from scripts.core import isolation, process
from scripts.core.planning import grid, placement, serving, sweep
from scripts.core.planning.memory import billions

STORED = {"bf16": 2, "fp32": 4}  # bytes per weight
DELTA = {"bf16": 0.2, "bf16_stochastic": 0.4, "fp32": 0.4}  # of that, as a difference from the target: docs/checkpoints.md
TRAINER_STATE = {"bf16": 2 + 2 + 2, "fp32": 4 + 4 + 4}  # bytes per weight of a resumable state: weights and two moments
EVALUATION_SHARE = 0.1  # of a training's time, per scheme, where nothing was measured
KINDS = ("base", "target", "retrain", "reinforced", "unlearn", "quantize", "evaluate")


def benchmarks(results: Path) -> dict[tuple[str, str], list[float]]:
    """Recorded seconds by (corpus, kind of job), from the benchmark files of finished jobs."""
    found = defaultdict(list)
    for path in (results / "benchmarks").rglob("*.tsv"):
        parts = path.relative_to(results / "benchmarks").parts
        kind = path.stem.split("_")[0]
        if kind not in KINDS or len(parts) < 2:
            continue
        if (seconds := sweep.seconds(path)) is not None:
            found[parts[0], kind].append(seconds)
    return found


def hours(corpus: str, kind: str, plan, measured) -> tuple[float, str]:
    """Hours of one job and where the number is from."""
    seconds = measured.get((corpus, kind))
    if seconds:
        return sum(seconds) / len(seconds) / 3600, f"mean of {len(seconds)} recorded"
    sizes = {name: billions(entry["model"]) for name, entry in plan.config["corpora"].items()}
    size = sizes[corpus]
    others = {name: found for (name, other), found in measured.items() if other == kind and name in sizes}
    if others:
        each = [size / sizes[name] * sum(found) / len(found) for name, found in others.items()]
        return sum(each) / len(each) / 3600, f"scaled from {', '.join(others)}"
    per_training = plan.config["resources"]["hours_per_billion"] * size
    return per_training * (EVALUATION_SHARE if kind in ("evaluate", "quantize") else 1), "assumed"


def jobs(plan) -> Counter:
    """Number of jobs by (corpus, kind); an evaluation job holds up to `evaluation.schemes_per_job` schemes."""
    count = Counter((run.corpus, run.stage) for run in plan.runs.values() if run.stage != "corpus" and not run.point)
    for run in plan.runs.values():
        if run.stage in ("target", "retrain") and run.spec["model"]["kind"] == "pretrained":
            count[run.corpus, run.stage] = 0  # copied, not trained
    artifacts = {name for name, scheme in plan.config["schemes"].items() if grid.made_in(scheme)}
    first = {name: names[0] for names in grid.evaluations(plan.config) for name in names}
    for corpus, _, _ in {(run.corpus, run.path, first[scheme]) for run, scheme in plan.cells}:
        count[corpus, "evaluate"] += 1
    for run, scheme in plan.cells:
        count[run.corpus, "quantize"] += scheme in artifacts
    return +count


def disk(plan) -> tuple[float, float]:
    """Bytes of the checkpoints kept at the end, and the most that a training's states take: a new one is written beside the old."""
    kept, state = 0.0, 0.0
    for run in plan.runs.values():
        if run.stage == "corpus":
            continue
        weights = billions(plan.config["corpora"][run.corpus]["model"]) * 1e9
        training = run.spec.get("training", {"store": "bf16", "weights": "fp32"})
        if run.stage != "unlearn" or plan.config["keep_checkpoints"] not in ("until_evaluated", *(["last"] if run.point else [])):
            as_delta = run.stage == "unlearn" and plan.config["store_checkpoints"] == "delta"
            share = DELTA[training.get("weights", "fp32")] if as_delta else 1
            kept += weights * STORED[training.get("store", "bf16")] * share
        if placement.is_training(run.spec):
            state = max(state, 2 * weights * TRAINER_STATE["fp32" if training["weights"] == "fp32" else "bf16"])
    return kept, state


def quantized(plan) -> float:
    """Bytes of the quantized models that are kept (GPTQ, …), with a bit per weight more for scales and what stays whole."""
    schemes, corpora = plan.config["schemes"], plan.config["corpora"]
    total = 0.0
    for run, name in plan.cells:
        if grid.made_in(schemes[name]):
            bits = schemes[name].get("bits") or int(re.search(r"\d", schemes[name]["type"]).group())  # GGUF's types: q4_k_m
            total += billions(corpora[run.corpus]["model"]) * 1e9 * (bits + 1) / 8
    return total


def unmade(plan) -> list[str]:
    """A line for each environment that the sweep needs and that is not there; conda makes its own (`snakemake --sdm conda`)."""
    needed = {grid.made_in(scheme) for scheme in plan.config["schemes"].values()} | {serving.environment(plan.config)}
    found = []
    for name in sorted(needed - {"", isolation.MAIN}):
        try:
            isolation.interpreter(name)
        except isolation.MissingEnvironment as error:
            found.append(str(error))
    return found


@process.guarded
def main(argv=None) -> int:
    """Print the plan; exit code 2 with one line when the configuration is wrong."""
    options = sweep.parser("plan", __doc__).parse_args(argv)
    plan = sweep.checked(sweep.laid(*options.config))
    measured = benchmarks(Path(plan.config["results"]))
    unlearned = sum(run.stage == "unlearn" and not run.point for run in plan.runs.values())
    along = sum(bool(run.point) for run in plan.runs.values())
    kinds = f"{unlearned} unlearning runs" + (f", {along} checkpoints along them" if along else "")
    print(f"cells: {len(plan.cells)} ({kinds} and {len(plan.evaluated()) - unlearned - along} reference models")
    print(f"       under {len(plan.config['schemes'])} schemes, {len(plan.config['metrics'])} metrics each)")
    for reason, count in Counter(plan.pruned).items():
        print(f"pruned: {reason}" + (f" ({count} times)" if count > 1 else ""))
    print(f"\n{'corpus':16s} {'jobs':10s} {'number':>7s} {'hours each':>11s} {'hours':>9s}  from")
    total = 0.0
    for (corpus, kind), number in sorted(jobs(plan).items()):
        each, source = hours(corpus, kind, plan, measured)
        total += each * number
        print(f"{corpus:16s} {kind:10s} {number:7d} {each:11.3f} {each * number:9.2f}  {source}")
    print("\nmemory:")
    for line in placement.table(plan):
        print(line)
    kept, state = disk(plan)
    gpus = plan.config["resources"]["gpus"]
    print(f"\njob hours: {total:.1f}" + (f" ({gpus} GPU per training, 1 per evaluation)" if gpus else " (no GPU asked for)"))
    print(
        f"disk: {kept / 1e9:.2f} GB of checkpoints kept ({plan.config['keep_checkpoints']}, {plan.config['store_checkpoints']}),"
        f" and up to {state / 1e9:.2f} GB per running training"
    )
    if stored := quantized(plan):
        print(f"      {stored / 1e9:.2f} GB of quantized models, kept for metrics that are added later")
    for line in unmade(plan):
        print(line)
    return 0


if __name__ == "__main__":
    process.tell(main)
