"""What every quantization scheme shares: which layers are quantized, how weights are read, what is reported.

The layers are those that bitsandbytes takes through transformers: every Linear layer except the output head (and
whatever is tied to the embeddings). Embeddings and norms are never quantized. torch is imported inside functions only,
because `check` of each scheme runs on login nodes.
"""

from collections.abc import Iterator
from pathlib import Path

from scripts.core.weights import checkpoints, delta

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
BITS = {"float32": 32, "bfloat16": 16, "float16": 16}


def columns(shape: dict | None) -> dict[str, int]:
    """Columns of the Linear layers by layer name, from a model's shape; empty where the shape is not known yet.

    `shape` is a scratch model's entry (hidden, intermediate) or the content of a config.json (hidden_size,
    intermediate_size, num_attention_heads, head_dim).
    """
    if not shape:
        return {}
    hidden = shape.get("hidden") or shape.get("hidden_size")
    inner = shape.get("intermediate") or shape.get("intermediate_size")
    attention = hidden
    if shape.get("head_dim") and shape.get("num_attention_heads"):
        attention = shape["head_dim"] * shape["num_attention_heads"]
    found = {"q_proj": hidden, "o_proj": attention, "down_proj": inner}
    return {name: width for name, width in found.items() if width}


def check_group(group: int | None, shape: dict | None) -> None:
    """Raise ValueError when a group of columns does not divide the columns of a layer of this shape; None is a whole row."""
    if group is None:
        return
    for name, width in columns(shape).items():
        if width % group:
            divisors = [g for g in (16, 32, 64, 128, 256) if width % g == 0] or [width]
            raise ValueError(
                f"group: {group} does not divide the {width} columns of {name}; allowed: a divisor, e.g. {divisors[-1]}"
            )


def tensors_on_disk(checkpoint) -> dict[str, dict]:
    """Headers of all tensors in a checkpoint's safetensors files: {name: {"dtype", "shape", …}}; nothing else is
    read. Where weights are kept as a difference, those of the files that it stands for.
    """
    place = Path(checkpoint)
    if delta.is_packed(place):
        return delta.Delta(place).headers
    files = [place] if place.suffix == ".safetensors" else sorted(place.glob("*.safetensors"))
    if not files:
        raise ValueError(f"checkpoint: {str(checkpoint)!r} holds no *.safetensors; allowed: a folder with safetensors weights")
    headers = {}
    for path in files:
        headers |= delta.header(path)[1]
    headers.pop("__metadata__", None)
    return headers


def parameters(headers: dict[str, dict]) -> dict[str, dict]:
    """The tensors that are weights or biases: old checkpoints of Llamas also store the frequencies of their rotary positions."""
    return {name: header for name, header in headers.items() if name.endswith((".weight", ".bias"))}


def stored_dtype(checkpoint) -> str:
    """The widest floating type among a checkpoint's weights and biases: 'float32', 'bfloat16' or 'float16'."""
    kinds = {DTYPES[h["dtype"]] for h in parameters(tensors_on_disk(checkpoint)).values() if h["dtype"] in DTYPES}
    if not kinds:
        raise ValueError(f"checkpoint: {str(checkpoint)!r} holds no float32, bfloat16 or float16 tensors")
    return max(kinds, key=BITS.get)


def load_model(checkpoint, device, quantization_config=None):
    """The checkpoint's model in eval mode on `device`, without rounding what is stored.

    On a CPU everything is fp32 (bf16 arithmetic is slow there; the values stay on the bf16 grid); on a GPU weights keep
    their stored type, so that a model trained in fp32 is not rounded to bf16 before it is quantized.
    """
    import torch

    stored = stored_dtype(checkpoint)
    dtype = torch.float32 if torch.device(device).type == "cpu" else getattr(torch, stored)
    extra = {} if quantization_config is None else {"quantization_config": quantization_config}
    model = checkpoints.causal_lm(checkpoint, dtype=dtype, device_map={"": str(device)}, **extra)
    model.stored_bits = BITS[stored]  # read by `report`
    return model.eval().requires_grad_(False)


def linears(model) -> Iterator[tuple[str, object]]:
    """(name, module) of the Linear layers that schemes quantize, in the model's order."""
    from torch.nn import Linear
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    skipped = get_keys_to_not_convert(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, Linear) and should_convert_module(name, skipped):
            yield name, module


def left_alone(model) -> list[str]:
    """Names of the Linear and Embedding layers that no scheme quantizes."""
    from torch.nn import Embedding, Linear

    taken = {name for name, _ in linears(model)}
    return [n for n, m in model.named_modules() if isinstance(m, Linear | Embedding) and n not in taken]


def report(model, layer_bits=None) -> dict:
    """What a scheme does to a model: {"bits_per_weight", "bytes", "quantized", "left_alone"}.

    `layer_bits(rows, columns)` → bits that one quantized matrix takes with its scales and zero points; None for full
    precision. bits_per_weight is over the quantized matrices (for full precision: over the same matrices, as stored);
    bytes are of the whole model, with what is left alone as stored in the checkpoint.
    """
    layers = list(linears(model))
    sizes = [(m.out_features, m.in_features) for _, m in layers]
    weights = sum(rows * cols for rows, cols in sizes)
    bits = sum(layer_bits(*size) for size in sizes) if layer_bits else weights * model.stored_bits
    inside = {id(m.weight) for _, m in layers}
    others = sum(p.numel() for p in model.parameters() if id(p) not in inside)
    names = left_alone(model)
    if layer_bits is None:
        names = [name for name, _ in layers] + names
    return {
        "bits_per_weight": bits / weights,
        "bytes": round((bits + others * model.stored_bits) / 8),
        "quantized": len(layers) if layer_bits else 0,
        "left_alone": names,
    }
