"""Gradient descent on the retain set: keep learning what must stay.

α · CE(x_r; θ), with CE the mean over predicted tokens; the trainer applies α. Source: GDR of Zhang et al. 2025 (arXiv
2410.16454), section 3, after Maini et al. 2024 (arXiv 2401.06121).
"""

from scripts.core.training import losses

PARAMETERS = {
    "alpha": {
        "type": "number",
        "default": 1.0,
        "exclusiveMinimum": 0,
        "maximum": 10000,
        "description": "weight α of the retain loss against the forget loss",
    },
}
NEEDS = ()
KIND = "training"


def loss(model, batch, reference):
    """Scalar CE on a retain batch, without α; `reference` is not read."""
    return losses.cross_entropy(losses.forward(model, batch), batch)
