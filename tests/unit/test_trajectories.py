"""Loss trajectories pinned as golden values: ten steps of every method with every regularizer, and of every
mask and LoRA, on one fixed tiny model.

A change of a formula, of the data order, of the optimiser or of an upstream library that moves any loss by more than 1e-4
(relative) fails here. After an intended change, regenerate from the repository's root and review the difference:

    python -m tests.unit.test_trajectories
"""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scripts.core import registry, storage
from scripts.core.planning import config
from scripts.core.training import batching, hyperparameters, lora, saliency, unlearner
from scripts.core.training.objective import Objective
from scripts.core.training.reference import Reference
from scripts.core.weights import models

GOLDEN = Path(__file__).parents[1] / "golden" / "trajectories.json"
STEPS, VOCABULARY, LENGTH = 10, 64, 16
SHAPE = {"hidden": 32, "layers": 2, "heads": 2, "positions": LENGTH, "seed": 11}
# Where a random model would leave an objective flat at its defaults.
PARAMETERS = {"simnpo": {"margin": 12.0}}
TRAINING = {"lr": "2e-3", "weights": "fp32", "moments": "fp32", "batch": 4, "max_steps": STEPS, "clip": 1.0}
# What may stand beside method and regularizer, tried on one cell.
CENTRE, BESIDE = ("npo", "gdr"), {"lora": {"parameters": "lora", "rank": 4}}
BESIDE |= {
    f"sure-{kind}": {"saliency": kind, "percentile": 60.0}
    for kind in config.definition("unlearning")["properties"]["saliency"]["enum"]
    if kind != "none"
}
BESIDE["sure-double"] = {"saliency": "module", "percentile": 60.0, "sure_double": True}


class Vocabulary(SimpleNamespace):
    """As much of a tokenizer as building a model asks for."""

    def __len__(self):
        return VOCABULARY


def cells() -> dict:
    """Every training method with every regularizer, then every mask and LoRA: (method, regularizer, settings) by golden name."""
    methods = [name for name in registry.names("methods") if registry.constants("methods", name)["KIND"] == "training"]
    plain = {f"{method}_{other}": (method, other, {}) for method in methods for other in registry.names("regularizers")}
    return plain | {f"{'_'.join(CENTRE)} {name}": (*CENTRE, settings) for name, settings in BESIDE.items()}


def trajectory(cell: str) -> dict:
    """{"forget", "retain", and "keep" where a method has it}: the losses of each step, before it."""
    generator = torch.Generator().manual_seed(5)
    forget, retain = (torch.randint(3, VOCABULARY, (8, LENGTH), generator=generator) for _ in range(2))
    dataset = batching.ForgetRetainDataset(forget, retain)
    model = models.build_model(SHAPE, Vocabulary(pad_token_id=0, bos_token_id=1, eos_token_id=2))
    *names, beside = cells()[cell]
    settings, mask = hyperparameters.complete(TRAINING | beside), None
    objective = Objective.of(*({"name": name, **PARAMETERS.get(name, {})} for name in names))
    everything = batching.collate([dataset[i] for i in range(len(dataset))])["forget"]
    reference = Reference.of(model, [everything], objective.needs)
    if settings["saliency"] != "none":
        loss = partial(objective.forget, reference=reference)
        mask = saliency.mask_of(model, [everything], loss, settings["saliency"], settings["percentile"])
    elif settings["parameters"] == "lora":
        model = lora.wrap(model, settings, 0)
    run = unlearner.UnlearnTrainer(model, dataset, settings, 0, objective, reference, mask=mask)
    run.run()
    return {term: [entry[term] for entry in run.history] for term in run.history[0] if term in ("forget", "keep", "retain")}


def test_what_stands_beside_a_cell_makes_a_difference():
    """Golden values of a setting that is not honoured would pin the plain cell again."""
    golden = json.loads(GOLDEN.read_text())
    names = ["_".join(CENTRE), *(f"{'_'.join(CENTRE)} {name}" for name in BESIDE)]
    assert len({tuple(golden[name]["forget"]) for name in names}) == len(names)


@pytest.mark.parametrize("cell", cells())
def test_trajectory_is_the_golden_one(cell):
    golden = json.loads(GOLDEN.read_text())
    assert cell in golden, f"no golden trajectory of {cell}: run `python -m tests.unit.test_trajectories`"
    losses = trajectory(cell)
    assert len(losses["forget"]) == STEPS
    assert max(abs(values[-1] - values[0]) for values in losses.values()) > 0.05  # it trains: a frozen model would pin nothing
    for term, values in losses.items():
        assert values == pytest.approx(golden[cell][term], rel=1e-4, abs=1e-6), term


if __name__ == "__main__":
    rounded = {
        cell: {term: [float(f"{value:.7g}") for value in values] for term, values in trajectory(cell).items()} for cell in cells()
    }
    storage.write_json(GOLDEN, rounded)
