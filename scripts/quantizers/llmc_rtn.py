"""RTN through llm-compressor (W4A16, compressed-tensors): a second implementation, in the format that vLLM serves.

Grid: symmetric codes −2^(b−1) … 2^(b−1) − 1 with s = max|w|/((2^b − 1)/2), one level more than the project's own rtn; scales are
stored in the checkpoint's precision.
"""

from scripts.core.weights import quantization
from scripts.quantizers import _artifact, _llmcompressor

PARAMETERS = {
    "bits": {"type": "integer", "enum": [4, 8], "default": 4, "description": "bits per code"},
    "group": {
        "type": ["integer", "null"],
        "minimum": 8,
        "default": 128,
        "description": "columns that share a scale; null is a whole row",
    },
    "symmetric": {"type": "boolean", "default": True, "description": "no zero point"},
}
ENVIRONMENT = "llmcompressor"
ARTIFACT = True
HARDWARE = ["cpu", "cuda"]
SERVED = True
SOURCE = "llm-compressor 0.14.0.1"
load, stored, describe = _llmcompressor.load, _llmcompressor.stored, _artifact.describe


def check(scheme: dict, model_shape: dict | None = None) -> None:
    """ValueError for a group that does not divide a layer."""
    quantization.check_group(scheme["group"], model_shape)


def prepare() -> None:
    """Import what takes longer to import than a small model to quantize, so that seconds are of the latter."""
    import llmcompressor.modifiers.quantization  # noqa: F401


def quantize(checkpoint, scheme: dict, windows: list[list[int]], out, device: str) -> None:
    """Write a pack-quantized checkpoint into `out`; runs in the environment `llmcompressor`."""
    _llmcompressor.quantize(checkpoint, scheme, windows, out, device, gptq=False)
