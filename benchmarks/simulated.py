"""The peak of an unlearning step of a model of a real size, without the memory and without a GPU; against the memory plan.

usage: python -m benchmarks.simulated [--shapes 7b …] [--out FILE]

The step is the product's own code, run on torch's fake tensors: they have a size, a dtype and a life, but no data. Every storage
that comes up is counted until it is released; the largest sum is the peak. This checks the plan's arithmetic against what
autograd, the model's code and the optimiser keep alive at that size. It says nothing of what a GPU adds: the allocator's rounding
and fragmentation, workspaces of kernels (`plan` sets memory aside for these), and attention kernels other than the one of a CPU,
which like flash attention keeps one number per head and token beside its output.
"""

import argparse
import sys
import weakref
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmarks import seven_b
from scripts.core.planning import memory
from scripts.core.training import batching, hyperparameters, lora, losses, optimizer, precision, unlearner
from scripts.core.training.objective import Objective
from scripts.core.training.reference import ASKED, Reference

SHAPES = dict(zip(("1.1b", "3b", "7b", "8b", "13b", "70b"), memory.KNOWN, strict=True))
# What is trained how: (method, regularizer, training settings).
SETTINGS = [
    ("npo", "klr", {"weights": "bf16", "moments": "bf16"}),
    ("npo", "klr", {"weights": "bf16", "moments": "bf16", "gradient_checkpointing": True}),
    ("npo", "klr", {"weights": "fp32", "moments": "fp32"}),
    ("npo", "klr", {"weights": "fp32", "moments": "fp32", "gradient_checkpointing": True}),
    ("ga", "gdr", {"weights": "bf16", "moments": "fp32", "gradient_checkpointing": True}),
    ("ga", "gdr", {"weights": "fp32", "moments": "fp32", "parameters": "lora"}),
    ("ga", "gdr", {"weights": "fp32", "moments": "fp32", "parameters": "lora", "gradient_checkpointing": True}),
]


class Alive(TorchDispatchMode):
    """Bytes of the storages that operations have made and that are still there (`now`), and the most of them (`most`)."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._seen = weakref.WeakSet()

    def add(self, tensor):
        """Count a tensor's storage, once."""
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            weakref.finalize(storage, self._gone, storage.nbytes())
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)

    def _gone(self, size):
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in tree_iter(result):
            if isinstance(one, torch.Tensor):
                self.add(one)
        return result


@contextmanager
def as_on_a_gpu():
    """Sizes of slices, buckets and dtypes as the product takes them on a GPU, for tensors that say they are on a CPU."""
    with ExitStack() as stack:
        for table in (losses.SLICE, optimizer.BUCKET):
            stack.enter_context(mock.patch.dict(table, cpu=table["cuda"]))
        cast = lambda weights, device: torch.autocast("cpu", torch.bfloat16, enabled=weights == "fp32")  # noqa: E731
        stack.enter_context(mock.patch.object(precision, "autocast", cast))
        yield


@contextmanager
def without_data():
    """Fake tensors, and the answer that a real batch gives where transformers reads the mask: nothing is padded."""
    masks = "transformers.masking_utils."
    with ExitStack() as stack:
        stack.enter_context(mock.patch(masks + "is_tracing", lambda *_: False))
        stack.enter_context(mock.patch(masks + "fast_all", lambda mask: True))
        stack.enter_context(mock.patch("torch.nn.Module.to", lambda module, *_, **__: module))  # all is where it stays
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def peak(shape: memory.Shape, method: str, regularizer: str, training: dict, length: int, batch: int, gpu=True) -> int:
    """Bytes at the peak of two steps (in the second all of the optimiser's state is there).

    shape, length (tokens of a chunk), batch (chunks of a step): what is trained; training: settings as spec["training"]. gpu:
    with the sizes of slices that the product takes on a GPU; else those of a CPU, which a real run here can be held against.
    """
    training = hyperparameters.complete({"lr": "1e-5", "batch": batch, "max_steps": 2, **training})
    objective = Objective.of({"name": method}, {"name": regularizer})
    dtype = "float32" if training["weights"] == "fp32" else "bfloat16"
    with as_on_a_gpu() if gpu else nullcontext(), without_data(), Alive() as alive:
        model = seven_b.build(shape, length, "cpu", dtype)
        frozen = seven_b.build(shape, length, "cpu", dtype).requires_grad_(False) if ASKED & objective.needs else None
        if training["parameters"] == "lora":
            with seven_b.default_dtype(dtype):
                model = lora.wrap(model, training, 0)
        rows = torch.zeros(2 * batch, length, dtype=torch.long)
        dataset = batching.ForgetRetainDataset(rows, rows)
        reference = Reference(torch.zeros(2 * batch), frozen)
        trainer = unlearner.UnlearnTrainer(model, dataset, training, 0, objective, reference)
        if training["gradient_checkpointing"]:
            model.activation_checkpointing_enable(hyperparameters.RECOMPUTING)  # as Trainer.train does at its start
        trainer.current_gradient_accumulation_steps, adam = 1, trainer.create_optimizer()
        for start in (0, batch):
            trainer._micro = []
            trainer.training_step(model, batching.collate([dataset[start + i] for i in range(batch)]))
            torch.nn.utils.clip_grad_norm_(model.parameters(), training["clip"])
            adam.step()
            model.zero_grad(set_to_none=True)
    return alive.most


def planned(shape: memory.Shape, method: str, regularizer: str, training: dict, length: int, batch: int) -> int:
    """Bytes that the plan gives the same step, without its reserve."""
    spec = {"stage": "unlearn", "corpus": {"max_length": length}, "training": {"batch": batch, **training}}
    spec |= {"method": {"name": method}, "regularizer": {"name": regularizer}}
    return memory.plan(shape, memory.Training.of(spec), reserve=0)["total"]


def parser() -> argparse.ArgumentParser:
    """Command line."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.simulated", description=__doc__.splitlines()[0])
    arguments.add_argument("--shapes", nargs="+", choices=SHAPES, default=["1.1b", "7b", "8b", "13b"], help="Llamas, by size")
    arguments.add_argument("--length", type=int, default=2048, help="tokens of a chunk")
    arguments.add_argument("--batch", type=int, default=4, help="chunks of a step")
    arguments.add_argument("--out", type=Path, help="write the table there, too")
    return arguments


def main(argv=None) -> int:
    """Print the table; 0."""
    options = parser().parse_args(argv)
    head = ["Llama", "method", "kept in", "checkpointing", "simulated, GB", "planned, GB", "planned / simulated"]
    rows = [head, ["---"] * 4 + ["---:"] * 3]
    for name in options.shapes:
        shape = memory.Shape(*SHAPES[name])
        for method, regularizer, training in SETTINGS:
            what = (shape, method, regularizer, training, options.length, options.batch)
            found, expected = peak(*what) / memory.GB, planned(*what) / memory.GB
            kept = ", ".join([training["weights"], training["moments"], *(["LoRA"] if "parameters" in training else [])])
            checkpointing = "yes" if training.get("gradient_checkpointing") else "no"
            numbers = [f"{found:.1f}", f"{expected:.1f}", f"{expected / found:.3f}"]
            rows.append([name.upper(), f"{method}+{regularizer}", kept, checkpointing, *numbers])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
    print(text, end="")
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
