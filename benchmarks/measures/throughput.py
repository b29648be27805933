"""Tokens per second of the published step and of ours, and the share of the processor's own matrix products that ours reaches.

MFU: 6·N floating-point operations per token that is trained on (forward and backward; N the parameters without the input
embedding) and 6·layers·hidden·length for causal attention, against a ceiling that is measured here: a large matrix product in the
dtype that training computes in. What θ_0 computes counts for nothing, on either side.
"""

import statistics
import time

from benchmarks.harness import Row
from benchmarks.measures.training import CELLS, SKIPPED, Setup, label, train

ORDER = 30
SIDE = {"cpu": 2048, "cuda": 8192}


def ceiling(context) -> float:
    """Floating-point operations per second of a square matrix product, the best of several."""
    import torch

    side = SIDE[context.device] if context.size != "tiny" else 256
    dtype = torch.bfloat16 if context.device == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=context.device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(8):
        context.wait()
        began = time.perf_counter()
        a @ b
        context.wait()
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def operations(model, length: int) -> float:
    """Of a token's forward and backward pass."""
    weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    config = model.config
    return 6 * weights + 6 * config.num_hidden_layers * config.hidden_size * length


def run(context):
    """Rows of each cell: tokens per second, and MFU against the ceiling."""
    setup, weights = Setup(context), "bf16" if context.device == "cuda" else "fp32"
    top = ceiling(context)
    yield Row("matrix product, the ceiling of MFU", None, top / 1e12, unit="TFLOP/s")
    setup.steps, each = SKIPPED + 4, operations(setup.model("fp32"), setup.rows[0].shape[1])
    tokens = 2 * context.shape.batch * setup.rows[0].shape[1]  # forget and retain
    for cell in CELLS:
        seconds = [], []
        for _ in range(min(3, context.count)):
            for found, make in zip(seconds, (setup.baseline, setup.ours), strict=True):
                found.append(train(make(*cell, weights))[0])
        speeds = [tokens / statistics.median(found) for found in seconds]
        yield Row(f"trained tokens, {label(cell)}, {weights}", *speeds, unit="1/s", more_is_better=True)
        yield Row(f"MFU, {label(cell)}, {weights}", *(100 * speed * each / top for speed in speeds), unit="%", more_is_better=True)
