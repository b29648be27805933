"""How much GPU memory a training takes, and which ZeRO stage it therefore gets. Arithmetic only: no torch.

Bytes per GPU, for N weights of which n are trained, on R GPUs, b bytes per weight as the model is held (bf16 2, fp32 4):

  weights      N·b; ZeRO-3: N·b/R, and what is gathered while it is used, min(N, 10⁹)·b; with fp32 weights and autocast also
               the bfloat16 casts of the Linear layers, 2 bytes each, which the backward pass keeps
  gradients    n·b; ZeRO: 2·n·b/R (kept, and flattened for the step), and a bucket of min(n, 5·10⁸)·b
  optimiser    two moments, n·2·bytes of a moment; under ZeRO divided by R, and the masters that are stepped, n·b/R at stage 2
  reference    the frozen copy that KLR, RMU and published NPO ask for, N·b (ZeRO-3: N·b/R), where it is resident
  activations  what the backward pass of one term keeps, per token of this GPU's rows (batch/R): see `activation_bytes`; with
               gradient checkpointing the input of each layer, and one layer in full
  logits       of one term and their gradient, 2·V per token in the dtype of the products; with KLR the reference's, too; and
               192 MiB, the slices that are widened
  step         instead of activations and logits: float32 copies in a step, 16 bytes of each of at most 2²⁶ bfloat16 weights
  reserve      CUDA context, kernels' workspaces and communication buffers

Terms run backward one after the other, so one term's activations are alive at a time; with a single term and no accumulation the
gradient grows as activations go, and the sum is an upper bound. Offload moves weights, gradient parts and optimiser state to the
CPU.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from scripts.core import registry

GB = 1e9
BYTES = {"bf16": 2, "bf16_stochastic": 2, "fp32": 4}
LIVE, BUCKET, WIDENED, SLICES = 1e9, 5e8, 2**26, 3 * 64 * 2**20
RESERVE = 2.0 * GB
# hidden, layers, heads, kv_heads, intermediate, vocabulary of Llamas, for models of which only the size is known.
KNOWN = [
    (2048, 22, 32, 4, 5632, 32000),  # TinyLlama 1.1B
    (3200, 26, 32, 32, 8640, 32000),  # OpenLLaMA 3B
    (4096, 32, 32, 32, 11008, 32000),  # Llama 2 7B
    (4096, 32, 32, 8, 14336, 128256),  # Llama 3 8B
    (5120, 40, 40, 40, 13824, 32000),  # Llama 2 13B
    (8192, 80, 64, 8, 28672, 32000),  # Llama 2 70B
]


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-like model; `stated` says whether they were read or taken from the nearest known model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    stated: bool = True

    @property
    def kv(self) -> int:
        """Width of keys and of values."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def linear(self) -> int:
        """Weights of the decoder's Linear layers and the output head."""
        layer = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv + 3 * self.hidden * self.intermediate
        return self.layers * layer + self.vocabulary * self.hidden

    @property
    def weights(self) -> int:
        """All weights."""
        return self.linear + (0 if self.tied else self.vocabulary * self.hidden) + (2 * self.layers + 1) * self.hidden

    def lora(self, rank: int) -> int:
        """Weights of LoRA updates of a rank at every Linear layer of the decoder."""
        h, kv, m = self.hidden, self.kv, self.intermediate
        return rank * self.layers * (2 * (h + h) + 2 * (h + kv) + 3 * (h + m))


@dataclass(frozen=True)
class Training:
    """What of a training decides its memory. computes: dtype of the products (fp32 on a CPU; on a GPU always bf16)."""

    length: int = 2048
    batch: int = 4
    weights: str = "bf16"
    moments: str = "bf16"
    lora: int = 0  # rank; 0 trains all weights
    reference: bool = False
    divergence: bool = False  # whether a term holds two sets of logits
    whole_model: bool = True  # whether ZeRO-3 can divide it
    checkpointing: bool = False
    computes: str = "bf16"

    @classmethod
    def of(cls, spec: dict):
        """Of a run's spec: an unlearning run, or the ordinary training of another stage."""
        length = spec["corpus"]["max_length"]
        if spec["stage"] != "unlearn":
            recipe = {"base": "pretrain", "reinforced": "reinforce"}.get(spec["stage"], "finetune")
            return cls(length, spec["model"].get(recipe, {}).get("batch", 16), "fp32", "fp32")
        training = spec["training"]
        parts = (("methods", spec["method"]["name"]), ("regularizers", spec["regularizer"]["name"]))
        needs = {need for room, name in parts for need in registry.constants(room, name).get("NEEDS", ())}
        lora = training.get("rank", 8) if training.get("parameters") == "lora" else 0
        whole = not lora and training.get("saliency", "none") == "none"
        distributions = bool(needs & {"model", "logits", "distribution"})
        resident = distributions and training.get("reference", "auto") in ("auto", "resident")
        names = (length, training["batch"], training["weights"], training["moments"], lora, resident, distributions, whole)
        return cls(*names, training.get("gradient_checkpointing", False))


def shape_of(spec: dict, checkpoint: Path | None = None) -> Shape:
    """The shape of a run's model: from a checkpoint's config.json where there is one, from the spec, or by its size."""
    model = spec["model"]
    for folder in (checkpoint, *(Path(str(model[key])) for key in ("target", "base") if key in model)):
        shape = stated_shape(folder) if folder else None
        if shape:
            return shape
    if model["kind"] == "scratch":
        hidden, kv = model["hidden"], model.get("kv_heads") or model["heads"]
        middle = model.get("intermediate") or max(64, int(2.75 * hidden) // 64 * 64)
        return Shape(hidden, model["layers"], model["heads"], kv, middle, model.get("vocab", 1024))
    shapes = [Shape(*sizes, stated=False) for sizes in KNOWN]
    return min(shapes, key=lambda shape: abs(shape.weights / 1e9 - model["billions"]))


def stated_shape(folder: Path) -> Shape | None:
    """The shape in a checkpoint's config.json; None without one, and for a model that names its sizes otherwise than Llama."""
    try:
        c = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = c["num_attention_heads"]
        sizes = (c["hidden_size"], c["num_hidden_layers"], heads, c.get("num_key_value_heads") or heads)
        return Shape(*sizes, c["intermediate_size"], c["vocab_size"], bool(c.get("tie_word_embeddings")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def activation_bytes(shape: Shape, weights: str, computes: str) -> tuple[float, float]:
    """(bytes per token of a layer, bytes per token of the final norm) that the backward pass needs, as transformers' Llama with
    scaled-dot-product attention keeps them.

    A norm keeps its input and its normalised value in float32 or the model's dtype; Linear layers their inputs (under
    autocast each its own cast); attention query, key, value, output and one number per head; the MLP four of its width.
    """
    h, kv, m = shape.hidden, shape.kv, shape.intermediate
    rest = 8 + 4 * shape.heads  # two inverse norms, log-sum-exp
    if computes == "fp32":
        return 32 * h + 8 * kv + 16 * m + rest, 12 * h
    if weights == "fp32":
        return 30 * h + 4 * kv + 8 * m + rest, 10 * h
    return 20 * h + 4 * kv + 8 * m + rest, 8 * h


def plan(shape: Shape, training: Training, gpus: int = 1, zero: int = 0, offload: str = "none", reserve: float = RESERVE) -> dict:
    """{part: bytes per GPU} and "total", for a ZeRO stage (0: none) and offload ("none", "cpu")."""
    held = BYTES[training.weights] if training.computes == "bf16" else 4
    moment, compute = BYTES[training.moments], BYTES[training.computes]
    n_all = shape.weights + (shape.lora(training.lora) if training.lora else 0)
    n = shape.lora(training.lora) if training.lora else n_all
    share, away = (gpus if zero else 1), offload == "cpu"
    parts = dict.fromkeys(("weights", "gradients", "optimiser", "reference", "activations", "logits", "step"), 0.0)
    divided = zero == 3
    parts["weights"] = n_all * held
    if divided:
        parts["weights"] = (0 if away else n_all * held / share) + min(n_all, LIVE) * held
    if held == 4 and training.computes == "bf16":
        parts["weights"] += 2 * shape.linear
    parts["gradients"] = 2 * n * held / share * (not away) + min(n, BUCKET) * held if zero else n * held
    if not away:
        parts["optimiser"] = 2 * n * moment / share + (n * held / share if zero == 2 else 0)
        parts["step"] = 16 * min(n / share, WIDENED) if held == 2 else 0
    if training.reference:
        parts["reference"] = shape.weights * held / (share if divided else 1)
    tokens = max(1, training.batch // share) * training.length
    layer, final = activation_bytes(shape, training.weights, training.computes)
    kept = shape.layers * layer
    if training.checkpointing:
        kept = layer + shape.layers * shape.hidden * (4 if training.weights == "fp32" else compute)
    parts["activations"] = tokens * (kept + final)
    slices = min(SLICES, 12 * tokens * shape.vocabulary)
    parts["logits"] = tokens * shape.vocabulary * compute * (3 if training.divergence else 2) + slices
    parts["reserve"] = reserve
    passing = max(parts["activations"] + parts["logits"], parts["step"])
    lasting = sum(value for name, value in parts.items() if name not in ("activations", "logits", "step"))
    return {**parts, "total": lasting + passing}


def candidates(training: Training, gpus: int, zero: str = "auto", offload: str = "auto") -> list[tuple[int, str]]:
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
    shape: Shape, training: Training, gpus: int, gpu_gb: float, zero: str = "auto", offload: str = "auto"
) -> tuple[int, str]:
    """The first candidate that fits into gpu_gb · 10⁹ bytes per GPU; a single one is taken as it is. ValueError when none fits."""
    options = candidates(training, gpus, zero, offload)
    if len(options) == 1:
        return options[0]
    needed = [plan(shape, training, gpus, *option)["total"] / GB for option in options]
    for option, size in zip(options, needed, strict=True):
        if size <= gpu_gb:
            return option
    raise ValueError(
        f"resources.gpu_gb: {gpu_gb:g} GB are too little on {gpus} GPUs, {min(needed):.0f} GB each would do; "
        "allowed: more GPUs, a smaller batch, LoRA, or zero and offload set by hand"
    )


def fewest(shape: Shape, training: Training, gpu_gb: float, limit: int = 64) -> int | None:
    """The smallest number of GPUs (1, or what divides the batch) on which a training fits; None if there is none."""
    for gpus in range(1, min(limit, training.batch) + 1):
        if training.batch % gpus == 0:
            for option in candidates(training, gpus):
                if plan(shape, training, gpus, *option)["total"] <= gpu_gb * GB:
                    return gpus
    return None


def trains(spec: dict) -> bool:
    """Whether a run is a training, and not a corpus, a published checkpoint that is copied, or arithmetic on checkpoints."""
    if spec["stage"] == "unlearn":
        return registry.constants("methods", spec["method"]["name"]).get("KIND") != "arithmetic"
    return spec["stage"] != "corpus" and (spec["stage"] == "reinforced" or spec["model"]["kind"] != "pretrained")


def check(sweep) -> None:
    """ValueError for the first training of a sweep (scripts.core.plan.Plan) that its number of GPUs does not allow."""
    gpus = sweep.config["resources"]["gpus"] * sweep.config["resources"]["nodes"]
    for run in sweep.runs.values():
        if gpus <= 1 or not trains(run.spec):
            continue
        batch, where = Training.of(run.spec).batch, f"training of {run.path}"
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
            if sweep.config["resources"]["zero"] == "3" and not Training.of(run.spec).whole_model:
                raise ValueError(f"resources.zero: 3 is not allowed with saliency or LoRA ({where}); allowed: auto, 2")


def name_of(zero: int, offload: str) -> str:
    """The words for a stage in tables."""
    return ("one GPU" if zero == 0 else f"ZeRO-{zero}") + (" + offload" if offload == "cpu" else "")


def table(sweep) -> list[str]:
    """Lines of a table: each kind of training of a sweep (scripts.core.plan.Plan), GB per GPU by part, and what it takes."""
    resources = sweep.config["resources"]
    gpus, gpu_gb = max(1, resources["gpus"] * resources["nodes"]), resources["gpu_gb"]
    rows = {}
    for run in sweep.runs.values():
        if not trains(run.spec):
            continue
        training = Training.of(run.spec)
        label = run.path.split("/")[1] if run.stage == "unlearn" else run.stage
        rows.setdefault((run.corpus, shape_of(run.spec), training), []).append(label)
    head = ("weights", "gradients", "optimiser", "reference", "activations", "logits", "total")
    lines = [
        f"{'corpus':12s} {'training':28s} {'kept in':22s} {'batch':>5s}" + "".join(f" {name:>11s}" for name in head) + "  takes"
    ]
    for (corpus, shape, training), labels in rows.items():
        names = sorted(set(labels))
        text = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        kept = f"{training.weights}, {training.moments}" + (f", LoRA {training.lora}" if training.lora else "")
        try:
            stage, offload = choose(shape, training, gpus, gpu_gb, resources["zero"], resources["offload"])
            takes = name_of(stage, offload)
        except ValueError:
            (stage, offload), takes = candidates(training, gpus, resources["zero"], resources["offload"])[-1], None
        sizes = plan(shape, training, gpus, stage, offload)
        if takes is None or sizes["total"] > gpu_gb * GB:
            least = fewest(shape, training, gpu_gb)
            takes = f"does not fit: {least} GPUs would do" if least else "does not fit: a smaller batch or LoRA might"
        numbers = "".join(f" {sizes[name] / GB:11.2f}" for name in head)
        assumed = "" if shape.stated else " (shape of the nearest Llama)"
        lines.append(f"{corpus:12s} {text:28.28s} {kept:22s} {training.batch:5d}{numbers}  {takes}{assumed}")
    lines.append(f"GB per GPU on {gpus} of {gpu_gb:g} GB, {RESERVE / GB:g} GB of the total for the driver and buffers")
    return lines
