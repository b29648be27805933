"""A metric that reads what its corpus does not take is one line before any job."""

import copy

import pytest

from scripts.core import registry
from scripts.core.planning import config as configuration
from scripts.core.planning import data, grid
from scripts.core.planning.checking import ConfigError
from scripts.corpora import synthetic
from tests.unit.test_config import MICRO, MUSE

METRICS = {
    "verbmem_f": ({"kind": "verbmem"}, {"tasks": ["verbmem"]}),
    "verbmem_r": ({"kind": "verbmem", "split": "retain"}, None),  # MUSE on the hub has none
    "knowmem_r": ({"kind": "knowmem", "split": "retain"}, {"tasks": ["knowmem"]}),
    "privleak": ({"kind": "privleak"}, {"tasks": ["privleak"]}),
    "perplexity": ({"kind": "perplexity", "split": "holdout"}, {"splits": ["forget", "retain1", "holdout"]}),
    "passages": ({"kind": "perplexity", "text": "privleak"}, {"tasks": ["privleak"]}),
    "fluency": ({"kind": "fluency"}, {"splits": ["forget", "retain1", "retain2"]}),
}


def plan_of(metrics: dict, corpus: dict):
    """The plan of the micro sweep on MUSE from the hub with these metrics and settings of the corpus."""
    config = copy.deepcopy(MICRO)
    config["corpora"]["people"] = MUSE | {"splits": ["forget", "retain1"], "tasks": []} | corpus
    config["metrics"] = metrics
    return grid.plan(configuration.resolve(config))


@pytest.mark.parametrize("name", METRICS)
def test_what_is_not_taken_is_told_and_what_is_taken_will_do(name):
    metric, enough = METRICS[name]
    with pytest.raises(
        ConfigError, match=rf"^metrics.{name}: reads \S+\.json, which corpora.people does not take; allowed: [^\n]*$"
    ):
        data.check(plan_of({name: metric}, {}))
    if enough:
        data.check(plan_of({name: metric}, enough))


def test_corpora_and_metrics_that_tell_nothing_are_not_compared():
    data.check(grid.plan(configuration.resolve(MICRO)))
    data.check(plan_of({"gen": {"kind": "lm_eval"}}, {}))


def test_a_model_from_scratch_needs_text_to_be_trained_on():
    """The base job would have found out, after the corpus was built."""
    config = copy.deepcopy(MICRO)
    config["corpora"]["people"]["pretrain_people"] = 0
    with pytest.raises(ConfigError, match=r"^corpora.people.model.kind: 'scratch' is pre-trained on raw/pretrain.json, [^\n]*$"):
        data.check(grid.plan(configuration.resolve(config)))


def test_examples_are_read_where_there_are_any():
    data.check(plan_of({"knowmem_f": {"kind": "knowmem", "shots": 0}}, {"tasks": ["knowmem"]}))
    assert registry.load("metrics", "knowmem").reads({"split": "forget", "shots": 0}) == ["knowmem/forget_qa"]


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_tells_files_of_the_layout(name, tmp_path):
    settings = configuration.plugin(METRICS[name][0], name, "metrics", "metrics")
    people = {"forget_people": 2, "retain_people": 3, "retain2_people": 1, "holdout_people": 2, "asked_people": 2}
    synthetic.build(registry.defaults("corpora", "synthetic") | people | {"pretrain_people": 0}, tmp_path)
    told = registry.load("metrics", settings["kind"]).reads(settings)
    assert told and [file for file in told if not (tmp_path / f"{file}.json").exists()] == []
