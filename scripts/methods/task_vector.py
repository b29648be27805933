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
    """Write the model to `folder` from the checkpoint folders of target and reinforced model; store: "bf16" or "fp32".

    In memory are the model as it is stored and one of its tensors as float32.
    """
    import torch

    from scripts.core.weights import models

    model = models.load_model(target, store)
    names = {name for name, _ in model.named_parameters()}
    old, other = weights(target, names), weights(reinforced, names)
    with torch.no_grad():
        for name, p in model.named_parameters():
            start = old(name)
            p.copy_(start - alpha * (other(name) - start))
    models.save_checkpoint(model, models.load_tokenizer(target), folder, store)


def weights(checkpoint, names: set[str]):
    """Function of a name that gives this tensor of a checkpoint folder as float32, for the names that its model has."""
    from scripts.core.weights import checkpoints, models, quantization

    if names <= quantization.tensors_on_disk(checkpoint).keys():
        source = checkpoints.reader(checkpoint)
        return lambda name: source.tensor(name).float()
    return dict(models.load_model(checkpoint, "fp32").named_parameters()).__getitem__  # its files name them otherwise
