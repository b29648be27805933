"""A training step of each method and each regularizer against GA's, on the same model; ratio: times the cost of GA's."""

from functools import partial

from benchmarks.harness import Row
from benchmarks.measures.training import SKIPPED, Setup, train
from scripts.core import registry

ORDER = 90
SIZES = ("tiny", "demo")
TABLE = "Cost of a step (baseline: GA without a regularizer; ratio: times GA's cost)"


def cells() -> list[tuple]:
    """Each training method alone, then GA with each regularizer."""
    methods = [name for name in registry.names("methods") if registry.constants("methods", name)["KIND"] == "training"]
    alone = [(name, "none") for name in methods if name != "ga"]
    return alone + [("ga", name) for name in registry.names("regularizers") if name != "none"]


def run(context):
    """A row per method, and per regularizer."""
    setup = Setup(context)
    setup.steps = SKIPPED + 4
    for cell in cells():
        works = [partial(lambda pair: train(setup.ours(*pair, "fp32"))[0], pair) for pair in (("ga", "none"), cell)]
        pairs = context.pairs(*works, count=min(3, context.count), seconds=lambda seconds: seconds, warm=False)
        yield Row.timed("+".join(name for name in cell if name != "none"), pairs, scale=1e3, unit="ms", table=TABLE).turned()
