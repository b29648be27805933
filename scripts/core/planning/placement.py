"""Which ZeRO stage and offload a training gets on its GPUs, whether it fits, and the memory table of `make plan`. No torch."""

from dataclasses import replace

from scripts.core import registry
from scripts.core.planning import memory
from scripts.core.planning.combinations import trains

MOST = 512  # GPUs that the schema allows: 64 nodes with 8 each


def candidates(training: memory.Training, gpus: int, zero: str = "auto", offload: str = "auto") -> list[tuple[int, str]]:
    """(stage, offload) that may be taken, in the order of preference. ValueError for what does not go together."""
    if gpus <= 1:
        return [(0, "none")]
    if zero == "3" and not training.whole_model:
        raise ValueError("resources.zero: 3 is not allowed with saliency or LoRA; allowed: auto, 2")
    stages = [2, 3] if zero == "auto" else [int(zero)]
    stages = stages if training.whole_model else [2]
    last = stages[-1]
    found = [(stage, "none") for stage in stages if offload != "cpu"]
    return found + [(last, "cpu")] if offload != "none" else found


def choose(
    shape: memory.Shape, training: memory.Training, gpus: int, gpu_gb: float, zero: str = "auto", offload: str = "auto"
) -> tuple[int, str]:
    """The first candidate that fits into gpu_gb · 10⁹ bytes per GPU; a single one is taken as it is. ValueError when none fits."""
    options = candidates(training, gpus, zero, offload)
    if len(options) == 1:
        return options[0]
    needed = [memory.plan(shape, training, gpus, *option)["total"] / memory.GB for option in options]
    for option, size in zip(options, needed, strict=True):
        if size <= gpu_gb:
            return option
    raise ValueError(
        f"resources.gpu_gb: {gpu_gb:g} GB are too little on {gpus} GPUs, {min(needed):.0f} GB each would do; "
        "allowed: more GPUs, a smaller batch, LoRA, or zero and offload set by hand"
    )


def fewest(shape: memory.Shape, training: memory.Training, gpu_gb: float) -> int | None:
    """The smallest number of GPUs (1, or what divides the batch) on which a training fits; None if there is none."""
    for gpus in range(1, min(training.batch, MOST) + 1):
        if training.batch % gpus == 0:
            for option in candidates(training, gpus):
                if memory.plan(shape, training, gpus, *option)["total"] <= gpu_gb * memory.GB:
                    return gpus
    return None


def is_training(spec: dict) -> bool:
    """Whether a run is a training, and not a corpus, a published checkpoint that is copied, or arithmetic on checkpoints."""
    if spec["stage"] == "unlearn":
        return trains(spec["method"]["name"])
    return spec["stage"] != "corpus" and (spec["stage"] == "reinforced" or spec["model"]["kind"] != "pretrained")


def check(sweep) -> None:
    """ValueError for the first training of a sweep (scripts.core.planning.plan.Plan) that its number of GPUs does not allow."""
    gpus = sweep.config["resources"]["gpus"] * sweep.config["resources"]["nodes"]
    for run in sweep.runs.values():
        if gpus <= 1 or not is_training(run.spec):
            continue
        batch, where = memory.Training.of(run.spec).batch, f"training of {run.path}"
        if batch % gpus:
            raise ValueError(
                f"batch: {batch} is not allowed on {gpus} GPUs ({where}); allowed: a multiple of {gpus}, it counts all"
            )
        if run.stage == "unlearn":
            method = run.spec["method"]["name"]
            if not registry.constants("methods", method).get("SEVERAL_GPUS", True):
                raise ValueError(f"resources.gpus: {gpus} in all are not allowed with method {method} ({where}); allowed: 1")
            mask = run.spec["training"].get("saliency", "none")
            if mask.startswith("row"):
                raise ValueError(
                    f"saliency: {mask!r} is not allowed on {gpus} GPUs ({where}); allowed: module, or resources.gpus 1"
                )
            if sweep.config["resources"]["zero"] == "3" and not memory.Training.of(run.spec).whole_model:
                raise ValueError(f"resources.zero: 3 is not allowed with saliency or LoRA ({where}); allowed: auto, 2")


def name_of(zero: int, offload: str) -> str:
    """The words for a stage in tables."""
    return ("one GPU" if zero == 0 else f"ZeRO-{zero}") + (" + offload" if offload == "cpu" else "")


def verdict(shape: memory.Shape, training: memory.Training, gpus: int, resources: dict) -> tuple[dict, str]:
    """(bytes per GPU by part, what the training takes, in words), also where it does not fit."""
    gpu_gb, wanted = resources["gpu_gb"], (resources["zero"], resources["offload"])
    try:
        option = choose(shape, training, gpus, gpu_gb, *wanted)
        takes = name_of(*option)
    except ValueError:
        option, takes = candidates(training, gpus, *wanted)[-1], None
    sizes = memory.plan(shape, training, gpus, *option)
    if takes and sizes["total"] <= gpu_gb * memory.GB:
        return sizes, takes
    again = memory.plan(shape, replace(training, checkpointing=True), gpus, *option)["total"] / memory.GB
    if takes and again <= gpu_gb:
        return sizes, f"does not fit: with gradient_checkpointing {again:.0f} GB, which a retry turns on"
    least = fewest(shape, training, gpu_gb)
    return sizes, f"does not fit: {least} GPUs would do" if least else "does not fit: a smaller batch or LoRA might"


def table(sweep) -> list[str]:
    """Lines of a table: each kind of training of a sweep (plan.Plan), GB per GPU by part, and what it takes."""
    resources = sweep.config["resources"]
    gpus, gpu_gb = max(1, resources["gpus"] * resources["nodes"]), resources["gpu_gb"]
    rows = {}
    for run in sweep.runs.values():
        if not is_training(run.spec):
            continue
        training = memory.Training.of(run.spec)
        label = run.path.split("/")[1] if run.stage == "unlearn" else run.stage
        rows.setdefault((run.corpus, memory.shape_of(run.spec), training), []).append(label)
    head = ("weights", "gradients", "optimiser", "reference", "activations", "logits", "total")
    lines = [
        f"{'corpus':12s} {'training':28s} {'kept in':22s} {'batch':>5s}" + "".join(f" {name:>11s}" for name in head) + "  takes"
    ]
    for (corpus, shape, training), labels in rows.items():
        names = sorted(set(labels))
        text = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        kept = f"{training.weights}, {training.moments}" + (f", LoRA {training.lora}" if training.lora else "")
        sizes, takes = verdict(shape, training, gpus, resources)
        numbers = "".join(f" {sizes[name] / memory.GB:11.2f}" for name in head)
        assumed = "" if shape.stated else " (shape of the nearest Llama)"
        lines.append(f"{corpus:12s} {text:28.28s} {kept:22s} {training.batch:5d}{numbers}  {takes}{assumed}")
    lines.append(
        f"GB per GPU on {gpus} of {gpu_gb:g} GB, {memory.RESERVE / memory.GB:g} GB of the total for the driver and buffers"
    )
    return lines
