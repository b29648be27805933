"""A model of a real size with random weights: one NPO+KLR step, one FP4 quantization, one evaluation batch; peaks against the plan.

usage: python -m benchmarks.seven_b [--device cuda] [--hidden 4096 --layers 32 …] [--batch 4 --length 2048] [--checkpointing]

Without options the model has the shape of Llama-2-7B. On a GPU the peaks are the allocator's, on a CPU sums over tensors; weights
are held in bf16 in both cases. Prints one line of JSON: GB measured and planned, by part. A CPU evaluates FP4 as plain fp32
layers, so its planned size holds on a GPU only.
"""

import argparse
import gc
import json
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from benchmarks import memory as measured
from scripts.core.planning import memory


class Vocabulary:
    """As much of a tokenizer as a checkpoint of random weights asks for."""

    def __init__(self, size: int):
        self.size = size

    def save_pretrained(self, folder):
        """Nothing is read from it."""


def parser() -> argparse.ArgumentParser:
    """Command line; defaults are Llama-2-7B's."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.seven_b", description=__doc__.splitlines()[0])
    sizes = {"hidden": 4096, "layers": 32, "heads": 32, "kv-heads": 32, "intermediate": 11008, "vocabulary": 32000}
    for name, value in {**sizes, "batch": 4, "length": 2048}.items():
        arguments.add_argument(f"--{name}", type=int, default=value)
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    arguments.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    return arguments


@contextmanager
def default_dtype(name: str):
    """Tensors are made in this dtype (torch's name) unless they say otherwise."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(shape: memory.Shape, length: int, device: str, dtype: str = "bfloat16"):
    """The model with random weights of a dtype (torch's name), made where it stays."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=length,
        tie_word_embeddings=shape.tied,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with default_dtype(dtype), torch.device(device):
        return LlamaForCausalLM(config).eval()


def step(model, options) -> None:
    """Two steps of NPO+KLR with weights and moments in bf16: in the second all of the optimiser's state is there."""
    import torch

    from scripts.core.training import batching, unlearner
    from scripts.core.training.objective import Objective
    from scripts.core.training.reference import Reference

    rows = torch.randint(3, options.vocabulary, (2 * options.batch, options.length), generator=torch.Generator().manual_seed(1))
    dataset = batching.ForgetRetainDataset(rows, rows.flip(0))
    batches = (batching.collate([dataset[i]])["forget"] for i in range(len(dataset)))
    reference = Reference.of(model, batches, {"sequence_logprob", "model"})
    settings = {"lr": "1e-5", "weights": "bf16", "moments": "bf16", "batch": options.batch, "max_steps": 2}
    settings["gradient_checkpointing"] = options.checkpointing
    objective = Objective.of({"name": "npo", "beta": 0.1}, {"name": "klr", "alpha": 1.0})
    unlearner.UnlearnTrainer(model, dataset, settings, 0, objective, reference).run()


def fp4_bytes(shape: memory.Shape) -> float:
    """What FP4 in blocks of 64 leaves: 4.5 bits per weight of the decoder's Linear layers, bf16 for the rest."""
    inner = shape.linear - shape.vocabulary * shape.hidden
    return inner * 4.5 / 8 + 2 * (shape.weights - inner)


def main(argv=None) -> int:
    """Measure and print; 0, or 2 without the device that was asked for."""
    options = parser().parse_args(argv)
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: --device: 'cuda' is not there; allowed: cpu (with a small shape), or a machine with a GPU", file=sys.stderr)
        return 2
    from scripts.core.evaluation.logprob import token_logprobs
    from scripts.core.weights import models
    from scripts.quantizers import bnb_fp4

    sizes = (options.hidden, options.layers, options.heads, options.kv_heads, options.intermediate, options.vocabulary)
    shape = memory.Shape(*sizes)
    training = memory.Training(options.length, options.batch, reference=True, divergence=True, checkpointing=options.checkpointing)
    plan = {name: value / memory.GB for name, value in memory.plan(shape, training, reserve=0).items()}
    before, found = measured.held(), {}
    model = build(shape, options.length, options.device)
    found["step"] = measured.peak(lambda: step(model, options), options.device, before)
    with tempfile.TemporaryDirectory() as folder:
        models.save_checkpoint(model, Vocabulary(options.vocabulary), folder)
        model = None
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
        before, kept = measured.held(), []
        found["fp4"] = measured.peak(
            lambda: kept.append(bnb_fp4.load(Path(folder), {"kind": "bnb_fp4"}, options.device)), options.device, before
        )
        texts = torch.randint(3, options.vocabulary, (options.batch, options.length)).tolist()
        work = lambda: token_logprobs(kept[0], texts, options.batch * options.length)  # noqa: E731
        found["evaluation"] = measured.peak(work, options.device, before)
    planned = {"step": plan["total"], "fp4 weights": fp4_bytes(shape) / memory.GB}
    gb = {name: round(value / memory.GB, 6) for name, value in found.items()}
    line = {"measured_gb": gb, "planned_gb": {k: round(v, 6) for k, v in planned.items()}, "parts": plan, "shape": sizes}
    print(json.dumps({**line, "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
