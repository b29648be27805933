"""bitsandbytes' FP4 in blocks of 64: the default 4-bit type, and what the published code runs as "4-bit".

A weight becomes the nearest of ±{0, 1/192, 1/6, 1/4, 1/3, 1/2, 2/3, 1} times the largest |w| of its block of 64
weights.
"""

from scripts.quantizers import _bnb

PARAMETERS = {
    "double": {"type": "boolean", "default": False, "description": "quantize the blocks' scales too (8 bits)"},
}
ENVIRONMENT = "train"
ARTIFACT = False
HARDWARE = ["cpu", "cuda"]
SOURCE = "bitsandbytes through transformers"


def load(checkpoint, scheme: dict, device, artifact=None):
    """The model in eval mode; compute in fp32 on a CPU, in bf16 on a GPU."""
    return _bnb.load_usable_4bit(checkpoint, "fp4", scheme, device)


def held(weight, scheme: dict):
    """(values, codes, edge) of one matrix, as a loaded model holds it; see scripts.quantizers._bnb.held_4bit."""
    return _bnb.held_4bit(weight, "fp4", scheme.get("double", False))


def describe(model, scheme: dict) -> dict:
    """{"bits_per_weight", "bytes", "quantized", "left_alone"}; 4.5 bits, or about 4.13 with `double`."""
    return _bnb.report_4bit(model, scheme)
