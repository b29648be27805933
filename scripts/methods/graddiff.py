"""GradDiff with a weight on its forget part: gradient ascent times γ, for use with a retain loss times α.

L = −γ · CE(x_f; θ); with the regularizer gdr the whole is −γ · CE(x_f) + α · CE(x_r), with klr the retain part is a
divergence. γ = 1 is GA. The ratio γ : α is what an unclipped AdamW sees; γ and α apart matter with clipping. Source: GradDiff
as weighted in open-unlearning (Dorna et al. 2025, arXiv 2506.12618), after Maini et al. 2024 (arXiv 2401.06121).
"""

from scripts.core.training import losses

PARAMETERS = {
    "gamma": {
        "type": "number",
        "default": 1.0,
        "exclusiveMinimum": 0,
        "maximum": 10000,
        "description": "weight γ of the forget loss; α of the regularizer weighs the retain loss",
    },
}
NEEDS = ()
KIND = "training"


def loss(model, batch, reference, gamma=1.0):
    """Scalar −γ · CE on a forget batch; `reference` is not read."""
    return -gamma * losses.cross_entropy(losses.forward(model, batch), batch)
