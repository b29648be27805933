"""Negative preference optimisation: preference learning with only the rejected answer.

L = (2/β) · mean over x of softplus(β · (log p_θ(x) − log p_θ0(x))), with log p the log-probability of the whole
sequence and θ_0 the target. It is bounded below by 0 and tends to GA for β → 0. Source: Zhang et al. 2024 (arXiv
2404.05868), equation 3; NPO of Zhang et al. 2025 (arXiv 2410.16454), section 3.
"""

import torch

from scripts.core.training import losses

PARAMETERS = {
    "beta": {
        "type": "number",
        "default": 0.1,
        "exclusiveMinimum": 0,
        "maximum": 100,
        "description": "inverse temperature β; the smaller, the closer to gradient ascent",
    },
}
NEEDS = ("sequence_logprob",)
KIND = "training"


def loss(model, batch, reference, beta=0.1):
    """Scalar NPO loss on a forget batch; reads `reference.sequence_logprob(batch)` (B,)."""
    ratio = losses.sequence_logprob(losses.forward(model, batch), batch) - reference.sequence_logprob(batch)
    return torch.nn.functional.softplus(beta * ratio).mean() * (2 / beta)
