"""A training step: two models and float32 logits in Trainer's compute_loss, against this project's trainer; the same losses."""

import time
from functools import partial

import torch

from benchmarks import memory, sizes
from benchmarks.harness import Row

ORDER = 20
CELLS = (("ga", "gdr"), ("npo", "gdr"), ("npo", "klr"))
SHOWN = {"ga": "GA", "npo": "NPO", "gdr": "GDR", "klr": "KLR", "none": "none"}
STEPS = {"tiny": 4, "demo": 12, "1b": 8}
SKIPPED = 2  # the first steps of a run warm up


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

    def __init__(self, context):
        from scripts.core import batching

        self.context, self.size = context, context.shape
        self.batching, self.steps = batching, STEPS[context.size]
        rows = [
            batching.chunks(sizes.texts(context.corpus, split), context.tokenizer, self.size.length)
            for split in ("forget", "retain1")
        ]
        self.dataset = batching.ForgetRetainDataset(*rows)

    def baseline(self, method, regularizer, weights):
        """(trainer, stopwatch) of the published way, with fresh models."""
        from benchmarks.baseline.training import PublishedTrainer

        dtype = "fp32" if weights == "fp32" else "bf16"
        model, reference, watch = self.context.model(dtype), self.context.model(dtype), stopwatch()
        arguments = (model, reference, self.dataset, self.batching.collate, method, regularizer, 1.0, 1e-5)
        return PublishedTrainer(*arguments, self.size.batch, self.steps, self.context.folder, [watch]), watch

    def ours(self, method, regularizer, weights, **more):
        """(trainer, stopwatch) of this project, its reference recorded."""
        from torch.utils.data import DataLoader

        from scripts.core import registry, trainer
        from scripts.core.distributions import Plan
        from scripts.core.reference import Reference
        from scripts.unlearn import asked_rows

        training = {"lr": 1e-5, "weights": weights, "batch": self.size.batch, "max_steps": self.steps, "clip": 1.0, **more}
        model = self.context.model(trainer.storage_dtype(weights, self.context.device))
        chosen = []
        for room, name in (("methods", method), ("regularizers", regularizer)):
            defaults = {key: one["default"] for key, one in registry.parameters(room, name).items()}
            chosen.append((registry.load(room, name), defaults))
        loader = DataLoader(self.dataset, batch_size=self.size.batch, collate_fn=self.batching.collate)
        needs = {*chosen[0][0].NEEDS, *chosen[1][0].NEEDS}
        settings = trainer.complete(training)
        asked = asked_rows({"method": method, "regularizer": regularizer}, {"forget": self.rows[0], "retain1": self.rows[1]})
        plan = Plan(asked, self.size.batch, self.context.folder, 5)  # as in a training of five epochs
        forget, kind = (batch["forget"] for batch in loader), settings["reference"]
        reference = Reference.of(model, forget, needs, kind=kind, k=settings["reference_k"], table=plan)
        run, watch = (
            trainer.UnlearnTrainer(model, self.dataset, self.batching.collate, training, 0, *chosen, reference),
            stopwatch(),
        )
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


def run(context):
    """Seconds per step of three cells, then the peak of the memory that tensors take."""
    setup, weights = Setup(context), "bf16" if context.device == "cuda" else "fp32"
    for cell in CELLS:
        name = f"{SHOWN[cell[0]]}+{SHOWN[cell[1]]}"
        works = [partial(lambda make, cell: train(make(*cell, weights)), make, cell) for make in (setup.baseline, setup.ours)]
        pairs = context.pairs(*works, seconds=lambda result: result[0], warm=False)
        compare(name, pairs.results, 2e-2 if weights == "bf16" else 1e-4)
        yield Row.timed(f"training step, {name}, {weights}", pairs, scale=1e3, unit="ms", note="equal losses")
    for cell in CELLS:
        peaks = []
        for make in (setup.baseline, setup.ours):
            before = memory.held()
            made = make(*cell, weights)
            peaks.append(memory.peak(partial(train, made), context.device, before) / 2**20)
            del made
        yield Row(f"peak memory of tensors, {SHOWN[cell[0]]}+{SHOWN[cell[1]]}, {weights}", *peaks, unit="MiB")
