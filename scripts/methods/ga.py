"""Gradient ascent: climb the language-modelling loss on the forget set.

L = −CE(x_f; θ), with CE the mean over predicted tokens. Unbounded below, so it ruins the model unless a regularizer
holds it or training is short. Source: Jang et al. 2023 (arXiv 2210.01504); GA of Zhang et al. 2025 (arXiv
2410.16454), section 3.
"""

from scripts.core.training import losses

PARAMETERS = {}
NEEDS = ()
KIND = "training"


def loss(model, batch, reference):
    """Scalar −CE on a forget batch; `reference` is not read."""
    return -losses.cross_entropy(losses.forward(model, batch), batch)
