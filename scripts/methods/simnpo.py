"""Negative preference optimisation without a reference model, its log-probability per token.

L = (2/β) · mean over x of softplus(β · log p_θ(x) / |x| + margin), with |x| the number of predicted tokens: NPO's form with
the length-normalised log-probability in place of the ratio to θ_0, so a passage that is already unlikely is left alone.
Source: Fan et al. 2024 (arXiv 2410.07163), equation 4 (margin is its γ; β · δ in open-unlearning).
"""

import torch

from scripts.core.training import losses

PARAMETERS = {
    "beta": {
        "type": "number",
        "default": 2.5,
        "exclusiveMinimum": 0,
        "maximum": 100,
        "description": "inverse temperature β on the mean log-probability per token",
    },
    "margin": {
        "type": "number",
        "default": 0.0,
        "minimum": 0,
        "maximum": 100,
        "description": "reward margin γ: how far below the forget text's likelihood has to go",
    },
}
NEEDS = ()
KIND = "training"


def loss(model, batch, reference, beta=2.5, margin=0.0):
    """Scalar SimNPO loss on a forget batch; `reference` is not read."""
    lengths = (losses.targets(batch) != losses.IGNORED).sum(dim=1)
    mean = losses.sequence_logprob(losses.forward(model, batch), batch) / lengths
    return torch.nn.functional.softplus(beta * mean + margin).mean() * (2 / beta)
