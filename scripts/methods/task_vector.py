"""Task arithmetic: walk away from a model that knows the forget set even better.

θ = θ_t − α · (θ_reinforced − θ_t), θ_t the target and θ_reinforced the target trained further on forget text. No training of
its own: float32 arithmetic on two checkpoints, rounded once when stored. Source: Ilharco et al. 2023 (arXiv 2212.04089);
task vector of Shi et al. 2024 (MUSE, arXiv 2407.06460) and Zhang et al. 2025 (arXiv 2410.16454).
"""

PARAMETERS = {
    "alpha": {
        "type": "number",
        "default": 1.0,
        "exclusiveMinimum": 0,
        "maximum": 10000,
        "description": "how far to go against the reinforced model's change",
    },
}
NEEDS = ("reinforced",)
KIND = "arithmetic"
TRAINING = ["store"]


def combine(target, reinforced, folder, store="bf16", alpha=1.0) -> None:
    """Write the model to `folder` from the checkpoint folders of target and reinforced model; store: "bf16" or "fp32"."""
    import torch

    from scripts.core.weights import models

    model, other = models.load_model(target, "fp32"), models.load_model(reinforced, "fp32")
    with torch.no_grad():
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.copy_(p - alpha * (q - p))
    models.save_checkpoint(model, models.load_tokenizer(target), folder, store)
