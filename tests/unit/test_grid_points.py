"""The grid: checkpoints along trainings, and the rule that chooses among them."""

import copy

import pytest

from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.core.planning.checking import ConfigError
from tests.unit.test_grid import MICRO, block, paths


def test_checkpoints_along_a_training_are_runs_of_their_own():
    found = paths(block(max_steps=9, checkpoint_at=[6, 3, 6]), block(epochs=4, checkpoint_at=[1]), block(epochs=4))
    first, second = "people/npo_gdr/lr1e-5_bf16_st9_a1_at3-6/seed0", "people/npo_gdr/lr1e-5_bf16_ep4_a1_at-ep1/seed0"
    assert found == [
        first,
        f"{first}/step3",
        f"{first}/step6",
        second,
        f"{second}/epoch1",
        "people/npo_gdr/lr1e-5_bf16_ep4_a1/seed0",
    ]
    assert len(paths(block(max_steps=9, checkpoint_at=[[3], [3, 6]]))) == 2 + 3


@pytest.mark.parametrize(
    "keys, evaluation, message",
    [
        ({"max_steps": 9, "checkpoint_at": [3, 9]}, {}, "checkpoint_at: 9 does not lie before the end of a run of 9 steps"),
        ({"epochs": 5, "checkpoint_at": [50]}, {}, "checkpoint_at: 50 does not lie before the end of a run of 5 epochs"),
        ({"max_steps": 9, "checkpoint_at": 3}, {}, "checkpoint_at: 3"),
        ({"max_steps": 9, "checkpoint_at": [0]}, {}, "checkpoint_at"),
        ({"max_steps": 9}, {"stop": "retrain"}, "evaluation.stop: 'retrain' chooses among checkpoints, and no block keeps any"),
        (
            {"max_steps": 9, "checkpoint_at": [3]},
            {"stop": "retrain", "stop_metric": "verbmem"},
            "evaluation.stop_metric: 'verbmem'",
        ),
        ({"method": "task_vector", "regularizer": "none", "lr": None, "checkpoint_at": [3]}, {}, "sweep[0].checkpoint_at: [3]"),
    ],
)
def test_bad_checkpoints_are_one_error(keys, evaluation, message):
    config = copy.deepcopy(MICRO)
    config["corpora"]["people"]["model"]["reinforce"] = {"steps": 2, "lr": "1e-4"}
    config["sweep"] = [{k: v for k, v in block(**keys).items() if v is not None}]
    config["unlearning"] = {"batch": 4}
    config["evaluation"] = evaluation
    with pytest.raises(ConfigError) as error:
        grid.plan(configuration.resolve(config))
    assert message in str(error.value)


def with_stop(metric="verbmem_f", **changes):
    """The plan of a sweep with one checkpoint along its trainings, which MUSE's rule chooses by this metric."""
    config = copy.deepcopy(MICRO) | changes
    config["sweep"], config["evaluation"] = [block(checkpoint_at=[2])], {"stop": "retrain", "stop_metric": metric}
    return grid.plan(configuration.resolve(config))


@pytest.mark.parametrize("metric", ["verbmem_f", "knowmem_f"])
def test_a_stop_may_be_chosen_by_what_tells_of_the_forget_set(metric):
    assert any(run.point for run in with_stop(metric).runs.values())


@pytest.mark.parametrize(
    "metric, changes, message",
    [
        ("knowmem_r", {}, "evaluation.stop_metric: 'knowmem_r' is no VerbMem or KnowMem of the forget set"),
        ("loss_f", {"metrics": {"loss_f": {"kind": "perplexity"}}}, "evaluation.stop_metric: 'loss_f' is no VerbMem"),
        ("verbmem_f", {"schemes": {"rtn": {"kind": "rtn"}}}, "evaluation.stop: needs full precision"),
    ],
)
def test_a_stop_that_nothing_could_choose_is_one_error(metric, changes, message):
    with pytest.raises(ConfigError) as error:
        with_stop(metric, **changes)
    assert str(error.value).startswith(message)
