"""A checkpoint kept as a difference from its target against the whole file: bytes, and the time to read all tensors (warm)."""

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import stored
from benchmarks.harness import Row
from benchmarks.measures.training import Setup, train

ORDER = 40
SIZES = ("tiny", "demo")
CELL = ("npo", "gdr")
STEPS = {"tiny": 4, "demo": 40}


def run(context):
    """Rows of bytes and of milliseconds for weights that were trained in bf16, and in fp32 but stored as bf16."""
    from scripts.core.weights import models

    setup = Setup(context)
    setup.steps = STEPS[context.size]
    for weights in ("bf16", "fp32"):
        made = setup.ours(*CELL, weights, lr=4e-5)
        train(made)
        with TemporaryDirectory(dir=context.folder) as scratch:
            folder = Path(scratch) / "run" / "checkpoint"
            folder.mkdir(parents=True)
            models.save_checkpoint(made[0].model, context.tokenizer, folder, "bf16")
            found = stored.measure(folder, context.checkpoint, Path(scratch), context.count)
        name = f"NPO+GDR of {setup.steps} steps, {weights}"
        note = f"{100 * found['changed']:.0f} % of weights changed"
        yield Row(f"checkpoint, {name}", found["full"] / 2**20, found["full"] * found["size"] / 2**20, unit="MiB", note=note)
        whole, difference, ratio = found["warm"]
        yield Row(f"reading it, {name}", 1e3 * whole, 1e3 * difference, unit="ms", ratio=ratio, pairs=context.count)
