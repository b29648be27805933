"""KLR as the published code computes it: raw logits where kl_div expects log-probabilities.

α · (1/B) · Σ over rows, positions and vocabulary of exp(z_θ0) · (z_θ0 − z_θ), with z raw logits and B the rows of the batch;
the trainer applies α. This is no divergence: it is unbounded below (raising every logit lowers it) and its scale grows with
exp of the target's logits, so it diverges where gradients are not clipped. For chasing published numbers; `klr` is the
formula of the paper. Source: the released code of Zhang et al. 2025 (arXiv 2410.16454) and of MUSE (Shi et al. 2024,
arXiv 2407.06460). Here in float32.
"""

import torch

from scripts.core.training import losses

PARAMETERS = {
    "alpha": {
        "type": "number",
        "default": 1.0,
        "exclusiveMinimum": 0,
        "maximum": 10000,
        "description": "weight α of the term on the retain set against the forget loss",
    },
}
NEEDS = ("logits",)
KIND = "training"


def loss(model, batch, reference):
    """Scalar on a retain batch, without α; reads `reference.logits(batch)` (B, T, V)."""
    logits, base = losses.forward(model, batch).float(), reference.logits(batch).float()
    return torch.nn.functional.kl_div(logits, base, reduction="batchmean", log_target=True)
