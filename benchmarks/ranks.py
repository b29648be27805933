"""The peak of a training divided by ZeRO among processes on a CPU, against the memory plan: which parts DeepSpeed keeps.

usage: python -m torch.distributed.run --standalone --nproc-per-node 2 -m benchmarks.ranks [--zero 3] [--weights fp32] [--klr]

Two steps of GA with a regularizer on a small Llama with random weights, one process per rank, exchanged through gloo. DeepSpeed's
bucket is made small for it, here and in the plan: at its real size it would be all that one sees. The first rank prints one line
of JSON: MB measured and planned, the plan's parts, and their ratio. As on a GPU weights of "bf16" lie in bfloat16 tensors.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

from benchmarks import memory as measured
from benchmarks import seven_b
from scripts.core.planning import memory

SHAPE, LENGTH, BATCH, BUCKET = memory.Shape(512, 6, 8, 8, 1408, 2000), 128, 4, 10**6


def parser() -> argparse.ArgumentParser:
    """Command line."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=__doc__.splitlines()[0])
    arguments.add_argument("--zero", type=int, choices=(2, 3), default=2)
    arguments.add_argument("--weights", choices=("bf16", "fp32"), default="bf16", help="weights and moments")
    arguments.add_argument("--klr", action="store_true", help="with the divergence from a frozen copy, else with GDR")
    return arguments


def train(divided, checkpoint: Path, training: dict, klr: bool) -> None:
    """Load a model as a training does, and run its two steps."""
    import torch

    from scripts.core.training import batching, unlearner
    from scripts.core.training.objective import Objective
    from scripts.core.training.reference import Reference
    from scripts.core.weights import models

    def load():
        return models.load_model(checkpoint, training["weights"], "cpu", "sdpa")

    model = load()
    frozen = divided.frozen(load()) if klr and divided.stage == 3 else None
    reference = Reference.of(model, [], {"distribution"} if klr else set(), frozen=frozen)
    rows = torch.randint(3, SHAPE.vocabulary, (2 * BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    dataset = batching.ForgetRetainDataset(rows, rows.flip(0))
    objective = Objective.of({"name": "ga"}, {"name": "klr" if klr else "gdr", "alpha": 1.0})
    unlearner.UnlearnTrainer(model, dataset, training, 0, objective, reference, zero=divided).run()


def main(argv=None) -> int:
    """Measure and print; 0, or 2 without several ranks."""
    options = parser().parse_args(argv)
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        print("error: WORLD_SIZE: one process is not allowed; allowed: several, started by torchrun", file=sys.stderr)
        return 2
    import torch
    from transformers import training_args

    from scripts.core.training import hyperparameters, zero
    from scripts.core.weights import models

    training_args.is_torch_bf16_gpu_available = lambda: True  # bfloat16 tensors are for GPUs; a CPU can compute with them
    torch.set_num_threads(1)
    training = {"lr": "1e-5", "weights": options.weights, "moments": options.weights, "batch": BATCH, "max_steps": 2}
    training = hyperparameters.complete(training)
    configured = zero.Zero._config
    small = {"reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}

    def config(self, *arguments):
        found = configured(self, *arguments)
        found["zero_optimization"] |= small
        return found

    with mock.patch.object(zero.Zero, "_config", config), tempfile.TemporaryDirectory() as folder:
        model = seven_b.build(SHAPE, LENGTH, "cpu", {"bf16": "bfloat16", "fp32": "float32"}[options.weights])
        models.save_checkpoint(model, seven_b.Vocabulary(SHAPE.vocabulary), folder, options.weights)  # each rank its own
        del model
        divided = zero.Zero(options.zero, "none", training, options.weights)
        before = measured.held()
        found = measured.peak(lambda: train(divided, Path(folder), training, options.klr), "cpu", before)
    if not divided.first:
        return 0
    kept = (options.weights, options.weights)
    what = memory.Training(LENGTH, BATCH, *kept, reference=options.klr, divergence=options.klr, computes=options.weights)
    # Nothing goes on beside the backward pass on a CPU: one bucket.
    with mock.patch.object(memory, "BUCKET", BUCKET / (2 if options.zero == 2 else 1)):
        parts = memory.plan(SHAPE, what, divided.size, options.zero, reserve=0)
    line = {"measured_mb": round(found / 1e6, 1), "planned_mb": round(parts["total"] / 1e6, 1)}
    print(json.dumps(line | {"ratio": round(parts["total"] / found, 3), "parts": {k: round(v / 1e6, 1) for k, v in parts.items()}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
