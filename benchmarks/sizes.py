"""The models that are measured: the demo's, one of a billion parameters, and a tiny one for tests."""

import json
from dataclasses import dataclass
from pathlib import Path

from scripts.core import registry


@dataclass(frozen=True)
class Size:
    """model: as spec["model"]; people: settings of the synthetic corpus; length and batch: tokens of a chunk, chunks of a step;
    steps: training steps that give the model the form of the text; metrics: of an evaluation job."""

    model: dict
    people: dict
    length: int
    batch: int
    steps: int
    metrics: dict
    batch_tokens: int = 32768
    lr: float = 2e-3


def metrics(verbatim: int, answer: int, shots: int) -> dict:
    """The five metrics of the demo's sweep with these lengths."""
    chosen = {"privleak": {"kind": "privleak"}}
    for split in ("forget", "retain"):
        chosen[f"verbmem_{split[0]}"] = {"kind": "verbmem", "split": split, "new_tokens": verbatim}
        chosen[f"knowmem_{split[0]}"] = {"kind": "knowmem", "split": split, "new_tokens": answer, "shots": shots}
    return chosen


DEMO = {"forget_people": 12, "retain_people": 32, "retain2_people": 8, "holdout_people": 16, "pretrain_people": 0}
DEMO |= {"asked_people": 12, "events": 4, "examples": 6, "repeats": 10}
SIZES = {
    "tiny": Size(
        {"hidden": 32, "layers": 2, "heads": 2, "vocab": 320, "positions": 512},
        {"forget_people": 3, "retain_people": 6, "retain2_people": 2, "holdout_people": 3, "pretrain_people": 0}
        | {"asked_people": 3, "examples": 2, "events": 2, "repeats": 2},
        length=32,
        batch=2,
        steps=3,
        metrics=metrics(6, 4, 2),
    ),
    "demo": Size(
        {"hidden": 256, "layers": 2, "heads": 4, "vocab": 1024, "positions": 512},
        DEMO,
        length=128,
        batch=2,
        steps=60,
        metrics=metrics(48, 8, 6),
    ),
    # Llama-3.2-1B's shape with Llama-2's vocabulary, untied: 1.1 thousand million parameters. Random weights, so that it is there
    # without a hub; the vocabulary is larger than the tokenizer's, which costs what a real one would.
    "1b": Size(
        {"hidden": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "intermediate": 8192, "vocab": 1024, "rows": 32000}
        | {"positions": 4096, "initializer_range": 0.02},
        DEMO | {"forget_people": 48, "retain_people": 96, "asked_people": 48, "holdout_people": 48, "repeats": 40},
        length=2048,
        batch=4,
        steps=0,
        metrics=metrics(128, 32, 6),
        batch_tokens=131072,
    ),
}


def corpus(size: Size, folder: Path) -> Path:
    """Build the synthetic corpus of a size; returns its data folder."""
    settings = registry.defaults("corpora", "synthetic") | size.people
    if not (folder / "data").exists():
        registry.load("corpora", "synthetic").build(settings, folder / "data")
    return folder / "data"


def texts(data: Path, split: str) -> list[str]:
    """Raw text of a split."""
    return json.loads((data / "raw" / f"{split}.json").read_text())


def checkpoint(size: Size, data: Path, folder: Path, device: str) -> Path:
    """Make the model of a size on a corpus, train it for `size.steps` steps, and store it; returns the folder."""
    if (folder / "config.json").exists():
        return folder
    from scripts.core import storage
    from scripts.core.training import batching, trainer
    from scripts.core.weights import models

    everything = texts(data, "forget") + texts(data, "retain1")
    tokenizer = models.build_tokenizer(everything, size.model["vocab"], size.model["positions"])
    model = models.build_model(size.model, tokenizer)
    if size.model.get("rows"):
        model.resize_token_embeddings(size.model["rows"], mean_resizing=False)
    if size.steps:
        dataset = batching.TextDataset(batching.chunks(everything, tokenizer, size.length))
        recipe = {"lr": size.lr, "batch": 8, "max_steps": size.steps, "schedule": "cosine"}
        trainer.RunTrainer(model.to(device), dataset, recipe, 0).run()
    with storage.whole_folder(folder) as partial:
        models.save_checkpoint(model.to("cpu"), tokenizer, partial)
    return folder
