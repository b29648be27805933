"""Values that mean the same are spelled alike, so that specs, paths and what was cached are the same."""

import copy
from pathlib import Path

import yaml

from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.core.planning.checking import learning_rate

MICRO = yaml.safe_load((Path(__file__).parents[2] / "tests/workflow/micro.yaml").read_text())


def test_a_number_has_one_spelling():
    """1 for 1.0 is no other spec: it would train and evaluate everything anew."""

    def texts(one, two):
        config = copy.deepcopy(MICRO)
        config["sweep"] = [{"corpus": "people", "method": "npo", "regularizer": "gdr", "alpha": two, "clip": one}]
        config["metrics"]["verbmem_f"] |= {"temperature": one - 1}
        config["schemes"]["bnb_int8"] = {"kind": "bnb_int8", "threshold": 3 * two}
        config["corpora"]["people"]["model"]["finetune"]["clip"] = two
        return grid.plan(configuration.resolve(config)).texts()

    assert texts(1, 2) == texts(1.0, 2.0)


def test_learning_rates_have_one_spelling():
    assert {learning_rate(text, "lr") for text in ("1e-5", "0.00001", "1.0E-05", "10e-6")} == {"1e-5"}
    assert learning_rate("2.5e-4", "lr") == "2.5e-4"
