"""A training step by the precision of weights and moments, against weights and moments in bf16.

On a CPU all of them compute in float32, so that the difference is what the optimiser rounds and stores; on a GPU fp32 weights also
take twice the bytes and are computed with under autocast. Ratio: times the cost of bf16.
"""

from functools import partial

from benchmarks import memory
from benchmarks.harness import Row
from benchmarks.measures.training import SKIPPED, Setup, label, train

ORDER = 95
CELLS = (("npo", "klr"), ("ga", "gdr"))
PRECISIONS = (("bf16_stochastic", "bf16"), ("fp32", "bf16"), ("fp32", "fp32"))
TABLE = "Cost of precision (baseline: weights and moments in bf16; ratio: times its cost)"


def run(context):
    """Rows of milliseconds per step of both cells, then of the first one's largest memory of tensors."""
    setup = Setup(context)
    for cell in CELLS:
        for precisions in PRECISIONS:
            yield timed(context, setup, cell, precisions)
    setup.steps = SKIPPED + 1
    for precisions in PRECISIONS:
        found = [held(context, setup, CELLS[0], *pair) for pair in (("bf16", "bf16"), precisions)]
        yield Row(f"peak memory of tensors, {name(CELLS[0], precisions)}", *found, unit="MiB", table=TABLE).turned()


def timed(context, setup, cell, precisions) -> Row:
    """The row of a step."""
    setup.steps = SKIPPED + 4
    works = [
        partial(lambda pair: train(setup.ours(*cell, pair[0], moments=pair[1]))[0], pair) for pair in (("bf16", "bf16"), precisions)
    ]
    pairs = context.pairs(*works, seconds=lambda seconds: seconds, warm=False)
    return Row.timed(f"training step, {name(cell, precisions)}", pairs, scale=1e3, unit="ms", table=TABLE).turned()


def held(context, setup, cell, weights, moments) -> float:
    """MiB at the peak of a training."""
    before = memory.held()
    made = setup.ours(*cell, weights, moments=moments)
    return memory.peak(partial(train, made), context.device, before) / 2**20


def name(cell, precisions) -> str:
    """As it stands in the table."""
    return f"{label(cell)}, weights {precisions[0]}, moments {precisions[1]}"
