"""Stay near the target's predictions on the retain set.

α · KL(p_θ0(·|x_r) ‖ p_θ(·|x_r)), mean over predicted tokens, between log-softmaxed distributions; the trainer applies
α. θ_0 is a frozen copy of the model at the start. Source: KLR of Zhang et al. 2025 (arXiv 2410.16454), section 3,
after Maini et al. 2024 (arXiv 2401.06121).
"""

from scripts.core.training import losses

PARAMETERS = {
    "alpha": {
        "type": "number",
        "default": 1.0,
        "exclusiveMinimum": 0,
        "maximum": 10000,
        "description": "weight α of the divergence on the retain set against the forget loss",
    },
}
NEEDS = ("distribution",)
KIND = "training"


def loss(model, batch, reference):
    """Scalar KL on a retain batch, without α; reads `reference.logits(batch)` (B, T, V)."""
    return losses.kl_divergence(losses.forward(model, batch), reference.logits(batch), batch)
