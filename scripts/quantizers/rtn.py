"""Round to nearest on a uniform integer grid: the quantization that the paper's text describes.

For each set of weights that shares a scale (the whole matrix, a row, or `group` consecutive columns of a row), in fp32:

  symmetric   s = max|w| / (2^(b−1) − 1),          q = clamp(round(w/s), −(2^(b−1) − 1), 2^(b−1) − 1),  w' = q·s
  asymmetric  s = (max(w,0) − min(w,0)) / (2^b − 1), z = round(−min(w,0)/s),
              q = clamp(round(w/s) + z, 0, 2^b − 1),                                                   w' = (q − z)·s

round() takes ties to even; a set of zeros gets s = 1. The scale counts 32 bits, a zero point b bits.
"""

PARAMETERS = {
    "bits": {"type": "integer", "minimum": 2, "maximum": 8, "default": 4, "description": "bits per code"},
    "granularity": {
        "type": "string",
        "enum": ["tensor", "channel", "group"],
        "default": "channel",
        "description": "what shares one scale: the matrix, a row (output channel), or a group of columns of a row",
    },
    "group": {
        "type": ["integer", "null"],
        "minimum": 2,
        "default": None,
        "description": "columns per group; only with granularity: group; must divide each layer's columns",
    },
    "symmetric": {"type": "boolean", "default": True, "description": "no zero point; the grid is symmetric around 0"},
}
ENVIRONMENT = "train"
ARTIFACT = False
HARDWARE = ["cpu", "cuda"]
SOURCE = "this project"


def check(scheme: dict, model_shape: dict | None = None) -> None:
    """ValueError when group and granularity disagree, or the group does not divide a layer's columns."""
    from scripts.core.weights.quantization import check_group

    granularity, group = scheme.get("granularity", "channel"), scheme.get("group")
    if granularity == "group":
        if group is None:
            raise ValueError("group: None is not allowed with granularity 'group'; allowed: a divisor of the columns, e.g. 128")
        check_group(group, model_shape)
    elif group is not None:
        raise ValueError(f"group: {group} has no meaning with granularity {granularity!r}; allowed: granularity 'group'")


def sets(weight, granularity: str, group: int | None):
    """View of `weight` (rows, columns) as (sets, weights per set): one row per scale."""
    rows, cols = weight.shape
    if granularity == "tensor":
        return weight.reshape(1, rows * cols)
    if granularity == "channel":
        return weight
    if cols % group:
        raise ValueError(f"group: {group} does not divide the {cols} columns of a layer; allowed: a divisor")
    return weight.reshape(rows * cols // group, group)


def quantize(weight, bits: int, granularity: str, group: int | None = None, symmetric: bool = True):
    """(codes, scale, zero) of a matrix: codes (sets, weights per set) and zero (sets, 1) int32, scale (sets, 1) fp32.

    Formulas: see the module. `zero` is all zeros when symmetric.
    """
    import torch

    flat = sets(weight.float(), granularity, group)
    if symmetric:
        top = 2 ** (bits - 1) - 1
        scale = flat.abs().amax(1, keepdim=True) / top
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = torch.zeros_like(scale)
        codes = (flat / scale).round_().clamp_(-top, top)
    else:
        low = flat.amin(1, keepdim=True).clamp_(max=0)
        high = flat.amax(1, keepdim=True).clamp_(min=0)
        scale = (high - low) / (2**bits - 1)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = (-low / scale).round_()
        codes = ((flat / scale).round_() + zero).clamp_(0, 2**bits - 1)
    return codes.int(), scale, zero.int()


def dequantize(codes, scale, zero, shape):
    """fp32 weights of `shape` (rows, columns) from what `quantize` returns."""
    return ((codes - zero).float() * scale).reshape(shape)


def held(weight, scheme: dict):
    """(values, codes, edge) of one matrix: fp32 (rows, columns), codes of the same shape, and half the median scale."""
    settings = (scheme["bits"], scheme["granularity"], scheme.get("group"), scheme.get("symmetric", True))
    codes, scale, zero = quantize(weight, *settings)
    return dequantize(codes, scale, zero, weight.shape), codes.reshape(weight.shape), scale.median().item() / 2


def apply(model, scheme: dict):
    """Replace each quantized layer's weight by its dequantized value, in place and one layer at a time; returns the
    model.

    Where the model is held in bf16 (on a GPU), dequantized weights are rounded to bf16, as a bf16 kernel would.
    """
    from scripts.core.weights.quantization import linears

    settings = (scheme["bits"], scheme["granularity"], scheme.get("group"), scheme.get("symmetric", True))
    for _, layer in linears(model):
        weight = layer.weight.data
        weight.copy_(dequantize(*quantize(weight, *settings), weight.shape))
    return model


def load(checkpoint, scheme: dict, device, artifact=None):
    """The rounded model in eval mode."""
    from scripts.core.weights.quantization import load_model

    return apply(load_model(checkpoint, device), scheme)


def describe(model, scheme: dict) -> dict:
    """{"bits_per_weight", "bytes", "quantized", "left_alone"}; see scripts.core.weights.quantization.report."""
    from scripts.core.weights.quantization import report

    bits, zero = scheme["bits"], 0 if scheme.get("symmetric", True) else scheme["bits"]

    def layer_bits(rows, cols):
        scales = {"tensor": 1, "channel": rows}.get(scheme["granularity"]) or rows * cols // scheme["group"]
        return rows * cols * bits + scales * (32 + zero)

    return report(model, layer_bits)
