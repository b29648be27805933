"""The precision in which a model is held and computes in training; what is written back is the optimiser's (optimizer.py)."""

from contextlib import nullcontext

import torch


def storage_dtype(weights: str, device: str) -> str:
    """Dtype in which a model is loaded for training: bfloat16 where the device is quick with it, else float32."""
    return "bf16" if weights != "fp32" and device == "cuda" else "fp32"


def autocast(weights: str, device: str):
    """The context of a forward pass: bfloat16 autocast for float32 weights on a GPU, nothing elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if weights == "fp32" and device == "cuda" else nullcontext()


@torch.no_grad()
def to_bf16_grid(model) -> None:
    """Round every parameter to the nearest bfloat16 value, in place, whatever the dtype it is stored in."""
    for p in model.parameters():
        held = getattr(p, "ds_tensor", p)  # this rank's part where ZeRO-3 has divided it
        held.copy_(held.bfloat16())
