"""A training step: two models and float32 logits in Trainer's compute_loss, against this project's trainer.

bf16 on a CPU: the published code computes in bfloat16, this project in float32 on weights that it rounds to bfloat16, which is what
the sweep's `weights: bf16` is there. In fp32 both compute alike.
"""

import time
from functools import partial

import torch

from benchmarks import memory, sizes
from benchmarks.harness import Row

ORDER = 20
CELLS = (("ga", "gdr"), ("npo", "gdr"), ("npo", "klr"))
SHOWN = {"ga": "GA", "npo": "NPO", "gdr": "GDR", "klr": "KLR"}
STEPS = {"tiny": 4, "demo": 10, "1b": 8}
SKIPPED = 2  # the first steps of a run warm up
# Chunks and a vocabulary as large, beside the demo's hidden size of 256, as 4 chunks of 2,048 tokens and 32,000 beside 2,048.
WIDE = {"length": 512, "vocabulary": 4096}


def stopwatch():
    """A callback that notes the time at the end of each step."""
    from transformers.trainer_callback import TrainerCallback

    class Stopwatch(TrainerCallback):
        def __init__(self):
            self.ends = []

        def on_step_end(self, args, state, control, **kwargs):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

        def seconds(self):
            """Of one step, the first ones left out."""
            return (self.ends[-1] - self.ends[SKIPPED - 1]) / (len(self.ends) - SKIPPED)

    return Stopwatch()


class Setup:
    """What both sides train: the data of a size, and settings of a cell."""

    def __init__(self, context, length: int | None = None, vocabulary: int | None = None):
        from scripts.core.training import batching

        self.context, self.size, self.vocabulary = context, context.shape, vocabulary
        self.batching, self.steps = batching, STEPS[context.size]
        texts = [sizes.texts(context.corpus, split) for split in ("forget", "retain1")]
        self.rows = [batching.chunks(own, context.tokenizer, length or self.size.length) for own in texts]
        self.dataset = batching.ForgetRetainDataset(*self.rows)

    def model(self, dtype):
        """A fresh model, its vocabulary widened where that was asked for."""
        model = self.context.model(dtype)
        if self.vocabulary:
            model.resize_token_embeddings(self.vocabulary, mean_resizing=False)
        return model

    def baseline(self, method, regularizer, weights):
        """(trainer, stopwatch) of the published way, with fresh models."""
        from benchmarks.baseline.training import PublishedTrainer

        dtype = "fp32" if weights == "fp32" else "bf16"
        model, reference, watch = self.model(dtype), self.model(dtype), stopwatch()
        arguments = (model, reference, self.dataset, self.batching.collate, method, regularizer, 1.0, 1e-5)
        return PublishedTrainer(*arguments, self.size.batch, self.steps, self.context.folder, [watch]), watch

    def ours(self, method, regularizer, weights, **more):
        """(trainer, stopwatch) of this project, its reference recorded."""
        from torch.utils.data import DataLoader

        from scripts.core.training import hyperparameters, precision, unlearner
        from scripts.core.training.distributions import TablePlan
        from scripts.core.training.objective import Objective
        from scripts.core.training.reference import Reference
        from scripts.core.training.unlearning import asked_rows

        training = {"lr": 1e-5, "weights": weights, "batch": self.size.batch, "max_steps": self.steps, "clip": 1.0, **more}
        model = self.model(precision.storage_dtype(weights, self.context.device))
        if weights != "fp32":
            precision.to_bf16_grid(model)
        objective = Objective.of({"name": method}, {"name": regularizer})
        loader = DataLoader(self.dataset, batch_size=self.size.batch, collate_fn=self.batching.collate)
        settings = hyperparameters.complete(training)
        asked = asked_rows(objective, {"forget": self.rows[0], "retain1": self.rows[1]})
        plan = TablePlan(asked, self.size.batch, self.context.folder, 5, settings["reference_k"])  # as in a training of five epochs
        forget, kind = (batch["forget"] for batch in loader), settings["reference"]
        reference = Reference.of(model, forget, objective.needs, kind=kind, table=plan)
        run = unlearner.UnlearnTrainer(model, self.dataset, training, 0, objective, reference)
        watch = stopwatch()
        run.add_callback(watch)
        return run, watch


def losses_of(run) -> list:
    """The total of each step, of either trainer."""
    return [entry["total"] for entry in run.history] if hasattr(run, "history") else torch.stack(run.losses).tolist()


def train(made):
    """Train what a Setup made; returns (seconds of a step, losses)."""
    trainer, watch = made
    trainer.run() if hasattr(trainer, "history") else trainer.train()
    return watch.seconds(), losses_of(trainer)


def compare(name, results, tolerance) -> None:
    """Raise unless both sides' losses agree step by step."""
    for (_, one), (_, other) in results:
        if len(one) != len(other) or any(abs(a - b) > tolerance * max(1.0, abs(a)) for a, b in zip(one, other, strict=True)):
            raise AssertionError(f"{name}: losses {one} against {other}")


def timed(context, setup, cell, weights, count=None):
    """The row of a cell's step, both sides with fresh models in each pair."""
    works = [partial(lambda make: train(make(*cell, weights)), make) for make in (setup.baseline, setup.ours)]
    pairs = context.pairs(*works, count=count, seconds=lambda result: result[0], warm=False)
    name = f"{label(cell)}, {weights}"
    compare(name, pairs.results, 2e-2 if weights == "bf16" else 1e-4)
    return Row.timed(f"training step, {name}", pairs, scale=1e3, unit="ms", note="equal losses")


def peaks(context, setup, cell, weights, what="", **more):
    """The row of a cell's largest memory; `more`: settings of ours."""
    found = []
    for make in (setup.baseline, partial(setup.ours, **more)):
        before = memory.held()
        made = make(*cell, weights)
        found.append(memory.peak(partial(train, made), context.device, before) / 2**20)
        del made
    return Row(f"peak memory of tensors, {label(cell)}, {weights}{what}", *found, unit="MiB")


def label(cell) -> str:
    """A cell's name in the table."""
    return "+".join(SHOWN[name] for name in cell)


def run(context):
    """Seconds per step of three cells, then the peak of the memory that tensors take."""
    setup, weights = Setup(context), "bf16" if context.device == "cuda" else "fp32"
    for cell in CELLS:
        yield timed(context, setup, cell, weights)
    if context.device == "cpu":
        setup.steps = SKIPPED + 2
        yield timed(context, setup, CELLS[-1], "bf16", min(2, context.count))
    setup.steps = SKIPPED + 1
    for cell in CELLS[:1] if context.size == "tiny" else CELLS:
        yield peaks(context, setup, cell, weights)
    yield peaks(context, setup, CELLS[-1], weights, ", activations recomputed", gradient_checkpointing=True)
    if context.size == "demo":
        wide = Setup(context, WIDE["length"], WIDE["vocabulary"])
        wide.steps = SKIPPED + 1
        shape = ", in the proportions of the 1b size"
        yield peaks(context, wide, CELLS[-1], weights, shape)
        yield peaks(context, wide, CELLS[-1], weights, f"{shape}, activations recomputed", gradient_checkpointing=True)
