"""NPO as the published code computes it: on raw logits, element by element, not on the probability of a sequence.

L = (2/β) · mean over rows, positions and vocabulary of softplus(β · (z_θ − z_θ0)), with z the logits before any softmax,
the last position and padding included. Every logit is pushed down alike, so the loss can fall while no probability
changes (softmax ignores a common shift). For chasing published numbers; `npo` is the formula of the paper. Source: the
released code of Zhang et al. 2025 (arXiv 2410.16454) and of MUSE (Shi et al. 2024, arXiv 2407.06460). Here in float32.
"""

import torch

from scripts.core.training import losses

PARAMETERS = {
    "beta": {
        "type": "number",
        "default": 0.1,
        "exclusiveMinimum": 0,
        "maximum": 100,
        "description": "factor β on the difference of raw logits",
    },
}
NEEDS = ("logits",)
KIND = "training"


def loss(model, batch, reference, beta=0.1):
    """Scalar loss on a forget batch; reads `reference.logits(batch)` (B, T, V)."""
    difference = losses.forward(model, batch).float() - reference.logits(batch).float()
    return torch.nn.functional.softplus(beta * difference).mean() * (2 / beta)
