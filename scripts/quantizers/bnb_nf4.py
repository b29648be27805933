"""bitsandbytes' NF4 in blocks of 64 (QLoRA, arXiv 2305.14314): 16 levels at quantiles of a normal distribution.

A weight becomes the nearest level times the largest |w| of its block of 64 weights.
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
    return _bnb.load_usable_4bit(checkpoint, "nf4", scheme, device)


def held(weight, scheme: dict):
    """(values, codes, edge) of one matrix, as a loaded model holds it; see scripts.quantizers._bnb.held_4bit."""
    return _bnb.held_4bit(weight, "nf4", scheme.get("double", False))


def describe(model, scheme: dict) -> dict:
    """{"bits_per_weight", "bytes", "quantized", "left_alone"}; 4.5 bits, or about 4.13 with `double`."""
    return _bnb.report_4bit(model, scheme)
