"""GPTQ through llm-compressor (W4A16, compressed-tensors): a second implementation, in the format that vLLM serves.

Formulas: see gptq. Grid: symmetric codes −2^(b−1) … 2^(b−1) − 1 with s = max|w|/((2^b − 1)/2); scales are stored in the
checkpoint's precision.
"""

from scripts.quantizers import _artifact, _calibrated, _llmcompressor

SHARES = ("_calibrated",)
PARAMETERS = {
    "bits": {"type": "integer", "enum": [4, 8], "default": 4, "description": "bits per code"},
    "group": {
        "type": ["integer", "null"],
        "minimum": 8,
        "default": 128,
        "description": "columns that share a scale; null is a whole row",
    },
    "symmetric": {"type": "boolean", "default": True, "description": "no zero point"},
    "act_order": {
        "type": ["string", "null"],
        "enum": ["weight", "static", None],
        "default": None,
        "description": "columns by the Hessian's diagonal; weight: groups of reordered columns, static: of neighbours",
    },
    "damp": {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "default": 0.01,
        "description": "share of the mean diagonal added to it",
    },
}
ENVIRONMENT = "llmcompressor"
ARTIFACT = True
HARDWARE = ["cpu", "cuda"]
SERVED = True
SOURCE = "llm-compressor 0.14.0.1"
check, load, stored, describe = _calibrated.check, _llmcompressor.load, _llmcompressor.stored, _artifact.describe


def prepare() -> None:
    """Import what takes longer to import than a small model to quantize, so that seconds are of the latter."""
    import llmcompressor.modifiers.gptq  # noqa: F401


def quantize(checkpoint, scheme: dict, windows: list[list[int]], out, device: str) -> None:
    """Write a pack-quantized checkpoint into `out`; runs in the environment `llmcompressor`."""
    _llmcompressor.quantize(checkpoint, scheme, windows, out, device, gptq=True)
