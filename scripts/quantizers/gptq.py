"""GPTQ (arXiv 2210.17323) through GPTQModel, in its own environment.

Columns are rounded one after the other; the error of each is made up for by the columns that are still to come, with the
inverse Hessian H = 2·X·Xᵀ + λI of the layer's inputs: w_j ← w_j − (w_q − round(w_q))·[H⁻¹]_qj/[H⁻¹]_qq. λ is `damp` times the
mean of H's diagonal. Grid: s = (max(w,0) − min(w,0))/(2^b − 1) per group (symmetric: s = 2·max|w|/(2^b − 1), zero point 2^(b−1)).
"""

import os

from scripts.quantizers import _artifact, _calibrated

SHARES = ("_gptq", "_calibrated")
ENVIRONMENT = "gptq"
ARTIFACT = True
HARDWARE = ["cpu", "cuda"]
SERVED = True
SOURCE = "GPTQModel 7.6.0"
check, describe = _calibrated.check, _artifact.describe


def prepare() -> None:
    """Import what takes longer to import than a small model to quantize, so that seconds are of the latter."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its default of one per core needs at least 2 where there is 1
    import gptqmodel  # noqa: F401


def quantize(checkpoint, scheme: dict, windows: list[list[int]], out, device: str) -> None:
    """Write a GPTQ checkpoint into `out`; runs in the environment `gptq`."""
    prepare()
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    from scripts.core.weights import quantization

    settings = QuantizeConfig(
        bits=scheme["bits"],
        group_size=scheme["group"] or -1,
        sym=scheme["symmetric"],
        desc_act=scheme["act_order"],
        act_group_aware=False,
        damp_percent=scheme["damp"],
        device=device,
        offload_to_disk=False,
        fallback=None,
    )
    examples = [{"input_ids": torch.tensor([w]), "attention_mask": torch.ones(1, len(w), dtype=torch.long)} for w in windows]
    # Left to itself it rounds what is stored in fp32, and on a CPU everything, to bf16 before it quantizes.
    model = GPTQModel.load(str(checkpoint), settings, dtype=getattr(torch, quantization.stored_dtype(checkpoint)))
    model.quantize(examples, batch_size=1)
    model.save(str(out))


def load(checkpoint, scheme: dict, device, artifact=None):
    """The dequantized model in eval mode; runs in the main environment."""
    from scripts.quantizers import _formats

    return _artifact.load(checkpoint, artifact, device, lambda parts: _formats.gptq(parts, scheme["bits"]))


def stored(parts: dict, scheme: dict):
    """(values, codes, edge) of one stored matrix, see docs/mechanism.md."""
    from scripts.quantizers import _formats

    return _formats.stored(_formats.gptq(parts, scheme["bits"]), parts, scheme["bits"])
