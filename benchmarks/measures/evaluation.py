"""Metrics of one model: one prompt at a time by `model.generate` and one `.item()` per token, against the evaluation engine."""

from functools import partial, reduce

from benchmarks.baseline.evaluation import OneAtATime
from benchmarks.harness import Row
from scripts.core import registry
from scripts.core.evaluation.engine import Engine
from scripts.evaluate import settings

ORDER = 10
NAMES = {"verbmem": "VerbMem", "knowmem": "KnowMem", "privleak": "PrivLeak's log-probabilities"}


def compare(one, other, name: str, exact: bool) -> None:
    """Raise unless two results of a metric agree: to the character in fp32, in value and AUC otherwise."""
    if exact and "auc" not in one:
        texts = [[sample["response"] for sample in result["samples"]] for result in (one, other)]
        if texts[0] != texts[1]:
            raise AssertionError(f"{name}: the two sides wrote different texts")
    tolerance = 1e-9 if exact else 2.0  # bf16 on a GPU: a tie may break differently in another batch
    if abs(one["value"] - other["value"]) > tolerance:
        raise AssertionError(f"{name}: {one['value']} against {other['value']}")


def run(context):
    """One row per kind of metric, and one for all that an evaluation job computes."""
    model, shape = context.model(), context.shape
    baseline = OneAtATime(model, context.tokenizer, quiet=True)
    ours = Engine(model, context.tokenizer, shape.batch_tokens, quiet=True)
    kinds = {}
    for name, entry in shape.metrics.items():
        chosen, metric = settings(entry), registry.load("metrics", entry["kind"])
        works = [partial(metric.evaluate, engine, context.corpus, chosen) for engine in (baseline, ours)]
        pairs = context.pairs(*works, count=max(1, min(context.count, 3)), warm=context.size != "1b")
        for one, other in pairs.results:
            compare(one, other, name, exact=context.device == "cpu")
        kinds.setdefault(entry["kind"], []).append(pairs)
    sums = {kind: reduce(lambda a, b: a + b, group) for kind, group in kinds.items()}
    for kind in sorted(sums, key=list(NAMES).index):
        yield Row.timed(NAMES[kind], sums[kind], note="equal scores")
    yield Row.timed("all metrics of an evaluation", reduce(lambda a, b: a + b, sums.values()), note="equal scores")
