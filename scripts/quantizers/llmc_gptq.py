"""GPTQ through llm-compressor (W4A16, compressed-tensors): a second implementation, in the format that vLLM serves.

Formulas: see gptq. Grid: symmetric codes −2^(b−1) … 2^(b−1) − 1 with s = max|w|/((2^b − 1)/2); scales are stored in the
checkpoint's precision.
"""

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


def check(scheme: dict, model_shape: dict | None = None) -> None:
    """ValueError for a group that does not divide a layer, and for a calibration set that can't be had."""
    from scripts.core import calibration, quantization

    if scheme["group"] is not None:
        quantization.check_group(scheme["group"], model_shape)
    calibration.check(scheme)


def prepare() -> None:
    """Import what takes longer to import than a small model to quantize, so that seconds are of the latter."""
    import llmcompressor.modifiers.gptq  # noqa: F401


def quantize(checkpoint, scheme: dict, windows: list[list[int]], out, device: str) -> None:
    """Write a pack-quantized checkpoint into `out`; runs in the environment `llmcompressor`."""
    from scripts.quantizers import _llmcompressor

    _llmcompressor.quantize(checkpoint, scheme, windows, out, device, True)


def load(checkpoint, scheme: dict, device, artifact=None):
    """The dequantized model in eval mode; runs in the main environment."""
    from scripts.quantizers import _artifact, _formats

    def weight(parts, content, layer):
        return _formats.pack_quantized(parts, scheme["bits"])

    return _artifact.load(checkpoint, artifact, device, weight)


def stored(parts: dict, scheme: dict):
    """(values, codes, edge) of one stored matrix, see docs/mechanism.md."""
    from scripts.quantizers import _formats

    return _formats.stored(_formats.pack_quantized(parts, scheme["bits"]), parts, scheme["bits"])


def describe(model, scheme: dict) -> dict:
    """{"bits_per_weight", "bytes", "bytes_on_disk", "quantized", "left_alone"}."""
    from scripts.quantizers import _artifact

    return _artifact.describe(model, scheme)
