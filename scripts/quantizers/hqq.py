"""HQQ (half-quadratic quantization, Badri and Shaji 2023) through the hqq package, in its own environment.

No calibration text: for each group of columns, the zero point (not a whole number) is fitted by half-quadratic splitting so
that ‖W − s·(Q − z)‖_p is small for p < 1, which ignores outliers; Q = clamp(round(W/s + z), 0, 2^b − 1), with s fixed at
(max − min)/(2^b − 1). Scales and zero points are stored in fp16, as its layers keep them. The fit begins at z = −min/s, or with
`round_zero` at the nearest whole number, as hqq's own configuration for 4 bits has it.
"""

from pathlib import Path

from scripts.core.weights import quantization
from scripts.quantizers import _artifact

PARAMETERS = {
    "bits": {"type": "integer", "enum": [2, 3, 4, 8], "default": 4, "description": "bits per code"},
    "group": {"type": "integer", "minimum": 8, "default": 64, "description": "columns that share a scale and zero point"},
    "round_zero": {"type": "boolean", "default": False, "description": "begin the fit at whole zero points (hqq's own for 4 bits)"},
}
ENVIRONMENT = "hqq"
ARTIFACT = True
HARDWARE = ["cpu", "cuda"]
SOURCE = "hqq 0.2.8.post1"
describe = _artifact.describe


def check(scheme: dict, model_shape: dict | None = None) -> None:
    """ValueError for a group that does not divide a layer's columns."""
    quantization.check_group(scheme["group"], model_shape)


def prepare() -> None:
    """Import what takes longer to import than a small model to quantize, so that seconds are of the latter."""
    import hqq.core.quantize  # noqa: F401


def quantize(checkpoint, scheme: dict, windows, out, device: str) -> None:
    """Write codes, scales and zero points into `out`; runs in the environment `hqq`, one layer at a time."""
    import torch
    from hqq.core.quantize import Quantizer
    from safetensors import safe_open
    from safetensors.torch import save_file

    from scripts.quantizers import _formats

    wanted = {f"{name}.weight" for name in _artifact.matrices(quantization.tensors_on_disk(checkpoint))}
    stored = {}
    for path in sorted(Path(checkpoint).glob("*.safetensors")):
        with safe_open(path, "pt", device=device) as file:
            for key in wanted & set(file.keys()):
                weight = file.get_tensor(key).float()
                settings = dict(nbits=scheme["bits"], group_size=scheme["group"], axis=1, bitpack=False, device=device)
                codes, meta = Quantizer.quantize(weight, **settings, round_zero=scheme.get("round_zero", False))
                layer, rows = key.removesuffix(".weight"), len(weight)
                stored[f"{layer}.codes"] = _formats.pack(codes.reshape(weight.shape), scheme["bits"]).cpu()
                stored[f"{layer}.scale"] = meta["scale"].reshape(rows, -1).half().cpu()
                stored[f"{layer}.zero"] = meta["zero"].reshape(rows, -1).half().cpu()
                stored[f"{layer}.shape"] = torch.tensor(weight.shape)
    save_file(stored, str(Path(out) / "model.safetensors"))


def load(checkpoint, scheme: dict, device, artifact=None):
    """The dequantized model in eval mode; runs in the main environment."""
    from scripts.quantizers import _formats

    return _artifact.load(checkpoint, artifact, device, lambda parts: _formats.hqq(parts, scheme["bits"]))


def stored(parts: dict, scheme: dict):
    """(values, codes, edge) of one stored matrix, see docs/mechanism.md."""
    from scripts.quantizers import _formats

    return _formats.stored(_formats.hqq(parts, scheme["bits"]), parts, scheme["bits"])
