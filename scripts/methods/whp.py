"""Who is Harry Potter: a model made of two, which lowers what a reinforced model would say more readily.

logits = b − α · relu(r − b), b the target's and r those of the target trained further on forget text. The checkpoint holds
both models as they are, and the evaluation quantizes both. Source: Eldan and Russinovich 2023 (arXiv 2310.02238),
equation 1, without its replacement of terms; WHP of Shi et al. 2024 (MUSE, arXiv 2407.06460).
"""

from pathlib import Path

from scripts.core import storage

PARAMETERS = {
    "alpha": {
        "type": "number",
        "default": 1.0,
        "exclusiveMinimum": 0,
        "maximum": 10000,
        "description": "how strongly logits are lowered where the reinforced model's are higher",
    },
}
NEEDS = ("reinforced",)
KIND = "arithmetic"
TRAINING = []
PARTS = 2


def combine(target, reinforced, folder, alpha=1.0) -> None:
    """Write the target's checkpoint to `folder`, the reinforced one below it, and pair.json that says how they combine."""
    from scripts.core.weights import models, pairs

    inner = Path(folder) / pairs.SECOND
    inner.mkdir()
    models.copy_checkpoint(target, folder)
    models.copy_checkpoint(reinforced, inner)
    storage.write_json(Path(folder) / pairs.DESCRIPTION, {"alpha": alpha})
