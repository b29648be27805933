"""How much GPU memory a training takes. Arithmetic only: no torch.

Bytes per GPU, for N weights of which n are trained, on R GPUs, b bytes per weight as the model is held (bf16 2, fp32 4):

  weights      N·b; ZeRO-3: N·b/R, and what is gathered while it is used, min(N, 10⁹)·b; with fp32 weights and autocast also
               the bfloat16 casts of the Linear layers, 2 bytes each: the backward pass keeps them, and autocast does for weights
               that are trained (with LoRA and checkpointing only one layer's and the head's are there at a time)
  gradients    n·b; where rows are chosen in each step, the forget term's apart, too (with accumulation also what was put aside);
               ZeRO: n·b/R, at stage 2 three times (kept, flattened, and those of the last step), and buckets of 5·10⁸·b,
               two at stage 2, where the exchange goes on beside the backward pass
  optimiser    two moments, n·2·bytes of a moment (8-bit: about 1; paged: none); under ZeRO divided by R, and the masters that are
               stepped, n·b/R
  reference    the frozen copy that KLR, RMU and published NPO ask for, N·b (ZeRO-3: N·b/R), where it is resident
  activations  what the backward pass of one term keeps, per token of this GPU's rows (batch/R): see `activation_bytes`; with
               gradient checkpointing the input of each layer, and then the logits or one layer in full
  logits       of one term and their gradient, 2·V per token in the dtype of the products; with KLR the reference's, too; and
               192 MiB, the slices that are widened
  step         instead of activations and logits: float32 copies in a step, 16 bytes of each of at most 2²⁶ bfloat16 weights;
               under ZeRO also the gradient that is stepped, n·b/R
  mask         SURE's pass over the forget set before the first step, instead of what stands above but weights and reference:
               float32 sums of all gradients, 4·N, whole on every GPU, and what a batch keeps; a gradient goes as it comes
  reserve      CUDA context, kernels' workspaces and communication buffers

Terms run backward one after the other, so one term's activations are alive at a time; with a single term and no accumulation the
gradient grows as activations go, and the sum is an upper bound. Offload moves weights, gradient parts and optimiser state to the
CPU.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from scripts.core.planning.combinations import needs
from scripts.core.planning.plan import RECIPES

GB = 1e9
BYTES = {"bf16": 2, "bf16_stochastic": 2, "fp32": 4}
# bitsandbytes: a byte and a scale per 256 for a moment; what is paged makes room when room is short.
MOMENT = {"adamw_8bit": 1 + 4 / 256, "paged_adamw": 0, "paged_adamw_8bit": 0}
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
    masked: bool = False  # whether a saliency mask is made first
    apart: int = 0  # further gradients of all weights that are held beside the one of a step
    whole_model: bool = True  # whether ZeRO-3 can divide it
    checkpointing: bool = False
    computes: str = "bf16"
    optimizer: str = "adamw"

    @classmethod
    def of(cls, spec: dict):
        """Of a run's spec: an unlearning run, or the ordinary training of another stage."""
        length = spec["corpus"]["max_length"]
        if spec["stage"] != "unlearn":
            recipe = spec["model"].get(RECIPES[spec["stage"]], {})
            return cls(length, recipe.get("batch", 16), "fp32", "fp32")
        training = spec["training"]
        lora = training.get("rank", 8) if training.get("parameters") == "lora" else 0
        saliency = training.get("saliency", "none")
        masked, apart = saliency != "none", 1 + (training.get("accumulation", 1) > 1) if saliency == "row-step" else 0
        distributions = bool(needs(spec) & {"model", "logits", "distribution"})
        resident = distributions and training.get("reference", "auto") in ("auto", "resident")
        kept = {"weights": training["weights"], "moments": training["moments"], "lora": lora, "masked": masked, "apart": apart}
        held = {"reference": resident, "divergence": distributions, "whole_model": not (lora or masked)}
        more = {"checkpointing": training.get("gradient_checkpointing", False), "optimizer": training.get("optimizer", "adamw")}
        return cls(length, training["batch"], **kept, **held, **more)


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


def billions(model: dict) -> float:
    """Weights of a corpus's model in billions, stated or counted from its shape."""
    return model["billions"] if "billions" in model else shape_of({"model": model}).weights / 1e9


def stated_shape(folder: Path) -> Shape | None:
    """The shape in a checkpoint's config.json; None without one, and for a model that names its sizes otherwise than Llama."""
    try:
        c = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = c["num_attention_heads"]
        sizes = (c["hidden_size"], c["num_hidden_layers"], heads, c.get("num_key_value_heads") or heads)
        return Shape(*sizes, c["intermediate_size"], c["vocab_size"], bool(c.get("tie_word_embeddings")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def activation_bytes(shape: Shape, weights: str, computes: str, lora: int = 0) -> tuple[float, float]:
    """(bytes per token of a layer, bytes per token of the final norm) that the backward pass needs, as transformers' Llama with
    scaled-dot-product attention keeps them; lora: rank of the updates at all Linear layers of a model that is frozen otherwise.

    A norm keeps its input and, to train its weight, its normalised value in float32 or the model's dtype; Linear layers their
    inputs (under autocast each its own cast), an update also its inner value; attention query, key, value, output and one
    number per head; the MLP four of its width.
    """
    h, kv, m = shape.hidden, shape.kv, shape.intermediate
    rest = 8 + 4 * shape.heads  # two inverse norms, log-sum-exp
    if computes == "fp32":
        layer, final, frozen, inner = 32 * h + 8 * kv + 16 * m + rest, 12 * h, (8 * h, 4 * h), 28
    elif weights == "fp32":
        layer, final, frozen, inner = 30 * h + 4 * kv + 8 * m + rest, 10 * h, (6 * h, 4 * h), 14
    else:
        layer, final, frozen, inner = 20 * h + 4 * kv + 8 * m + rest, 8 * h, (4 * h, 2 * h), 14
    return (layer - frozen[0] + inner * lora, final - frozen[1]) if lora else (layer, final)


@dataclass(frozen=True)
class _Case:
    """A training on some GPUs: the bytes per GPU of each part, as the table above has them."""

    shape: Shape
    training: Training
    gpus: int
    zero: int
    offload: str

    @property
    def held(self) -> int:
        """Bytes of a weight as the model is held."""
        return BYTES[self.training.weights] if self.training.computes == "bf16" else 4

    @property
    def computed(self) -> int:
        """Bytes of a number that a product gives."""
        return BYTES[self.training.computes]

    @property
    def updates(self) -> int:
        """Weights of LoRA's updates."""
        return self.shape.lora(self.training.lora) if self.training.lora else 0

    @property
    def all(self) -> int:
        """Weights of the model, updates included: N."""
        return self.shape.weights + self.updates

    @property
    def trained(self) -> int:
        """Weights that are trained: n."""
        return self.updates or self.all

    @property
    def share(self) -> int:
        """Among how many GPUs ZeRO divides."""
        return self.gpus if self.zero else 1

    @property
    def away(self) -> bool:
        """Whether offload keeps on the host what it can."""
        return self.offload == "cpu"

    @property
    def tokens(self) -> int:
        """Tokens of this GPU's rows of a batch."""
        return max(1, self.training.batch // self.share) * self.training.length

    def weights(self) -> float:
        size = self.all * self.held
        if self.zero == 3:
            size = (0 if self.away else size / self.share) + min(self.all, LIVE) * self.held
        if self.held == 4 and self.training.computes == "bf16":
            head = self.shape.vocabulary * self.shape.hidden
            one_layer = self.training.lora and self.training.checkpointing
            size += 2 * ((self.shape.linear - head) / self.shape.layers + head if one_layer else self.shape.linear)
        return size

    def gradients(self) -> float:
        if not self.zero:
            return self.trained * self.held * (1 + self.training.apart)
        copies, buckets = (1, 1) if self.zero == 3 else (3, 2)
        return (0 if self.away else self.trained * self.held / self.share * copies) + BUCKET * self.held * buckets

    def stepped(self) -> float:
        """The masters, or the gradient that is stepped, under ZeRO."""
        return self.trained * self.held / self.share if self.zero else 0

    def optimiser(self) -> float:
        if self.away:
            return 0.0
        moment = MOMENT.get(self.training.optimizer, BYTES[self.training.moments])
        return 2 * self.trained * moment / self.share + self.stepped()

    def step(self) -> float:
        if self.away:
            return 0.0
        return (16 * min(self.trained / self.share, WIDENED) if self.held == 2 else 0) + self.stepped()

    def reference(self) -> float:
        if not self.training.reference:
            return 0.0
        return self.shape.weights * self.held / (self.share if self.zero == 3 else 1)

    def logits(self) -> float:
        slices = min(SLICES, 12 * self.tokens * self.shape.vocabulary)
        return self.tokens * self.shape.vocabulary * self.computed * (3 if self.training.divergence else 2) + slices

    def activations(self) -> float:
        shape, training = self.shape, self.training
        layer, final = activation_bytes(shape, training.weights, training.computes, training.lora)
        if not training.checkpointing:
            return self.tokens * (shape.layers * layer + final)
        inputs = shape.layers * shape.hidden * (4 if training.weights == "fp32" else self.computed)
        # Back in a layer the logits are gone; there are its activations, two gradients of the MLP's width and one of a weight.
        one = self.tokens * (layer + 2 * self.computed * shape.intermediate) + shape.hidden * shape.intermediate * self.held
        return self.tokens * inputs + max(self.tokens * final, one - self.logits())

    def mask(self) -> float:
        if not self.training.masked:
            return 0.0
        return 4 * self.all + self.activations() + self.logits()


def plan(shape: Shape, training: Training, gpus: int = 1, zero: int = 0, offload: str = "none", reserve: float = RESERVE) -> dict:
    """{part: bytes per GPU} and "total", for a ZeRO stage (0: none) and offload ("none", "cpu")."""
    case = _Case(shape, training, gpus, zero, offload)
    parts = {
        "weights": case.weights(),
        "gradients": case.gradients(),
        "optimiser": case.optimiser(),
        "reference": case.reference(),
        "activations": case.activations(),
        "logits": case.logits(),
        "step": case.step(),
        "mask": case.mask(),
        "reserve": reserve,
    }
    lasting = parts["weights"] + parts["reference"] + reserve
    backward = parts["activations"] + parts["logits"]
    training_itself = parts["gradients"] + parts["optimiser"] + max(backward, parts["step"])
    return {**parts, "total": lasting + max(parts["mask"], training_itself)}
