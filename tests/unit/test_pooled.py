"""The mean over seeds where seeds differ: in how many samples they have, in what they lack, in why they lack it."""

import numpy as np
import pandas as pd
import pytest

from scripts import aggregate as program
from scripts.core.storage import write_json
from tests.unit.test_aggregate import RUN, cells, put, row


def pool(root, count=2):
    """The pooled row of these seeds at full precision."""
    given = [cell for k in range(count) for cell in cells(f"{RUN}/seed{k}", ["full"], seed=k)]
    return row(program.aggregate(given, root)["scores"], seed="all")


def test_seeds_with_other_numbers_of_samples_have_a_mean_and_no_interval(tmp_path):
    """Their replicates are of other draws, and a mean of them would pair what was not asked alike."""
    put(tmp_path, f"{RUN}/seed0", "full", np.linspace(0, 1, 5))
    put(tmp_path, f"{RUN}/seed1", "full", np.linspace(0, 0.5, 6))
    found = pool(tmp_path)
    assert (found["value"], found.interval) == (pytest.approx(37.5), "") and np.isnan(found.low)
    assert found.reason == "no interval: seeds have different numbers of samples"


def test_one_seed_that_is_left_has_the_interval_of_its_samples(tmp_path):
    put(tmp_path, f"{RUN}/seed1", "full", np.linspace(0, 1, 9))
    found = pool(tmp_path)
    alone = row(program.aggregate(cells(f"{RUN}/seed1", ["full"], seed=1), tmp_path)["scores"])
    assert found[["value", "low", "high"]].tolist() == alone[["value", "low", "high"]].tolist()
    assert (found.seeds, found.interval) == (1, "samples") and found.reason.startswith("seed 0: no ")


def test_a_seed_without_samples_leaves_the_mean_without_an_interval(tmp_path):
    put(tmp_path, f"{RUN}/seed0", "full", np.linspace(0, 1, 5))
    put(tmp_path, f"{RUN}/seed1", "full", value=30.0, n=5)
    found = pool(tmp_path)
    assert found["value"] == pytest.approx(40) and np.isnan(found.low)
    assert found.reason == "no interval: the value is not the mean of its samples"


def test_each_metric_has_a_mean_of_its_own(tmp_path):
    metrics = {"knowmem_f": (0.1, 0.3), "verbmem_f": (0.5, 0.7)}
    for metric, scores in metrics.items():
        for k, score in enumerate(scores):
            put(tmp_path, f"{RUN}/seed{k}", "full", [score] * 2, metric=metric)
    given = [cell for k in range(2) for cell in cells(f"{RUN}/seed{k}", ["full"], metrics, seed=k)]
    found = program.aggregate(given, tmp_path)["scores"]
    found = found[found.seed == "all"]
    assert dict(zip(found.metric, found["value"], strict=True)) == {"knowmem_f": pytest.approx(20), "verbmem_f": pytest.approx(60)}


@pytest.mark.parametrize(("steps", "expected"), [((7, 7), 7), ((7, 9), pd.NA)])
def test_a_pool_says_the_step_that_its_seeds_share(tmp_path, steps, expected):
    for k, step in enumerate(steps):
        put(tmp_path, f"{RUN}/seed{k}", "full", [0.5] * 2)
        write_json(tmp_path / f"{RUN}/seed{k}/outcome.json", {"status": "done", "step": step})
    assert pool(tmp_path).step is expected or pool(tmp_path).step == expected


@pytest.mark.parametrize(("second", "status"), [("diverged", "diverged"), ("not finite", "missing")])
def test_where_no_seed_has_a_value_the_status_is_what_they_share(tmp_path, second, status):
    put(tmp_path, f"{RUN}/seed0", "full", status="diverged", value=None, reason="diverged at step 7")
    put(tmp_path, f"{RUN}/seed1", "full", status=second, value=None, reason="so it is")
    found = pool(tmp_path)
    assert np.isnan(found["value"]) and found.status == status
    assert found.reason == "seed 0: diverged at step 7; seed 1: so it is"


def test_a_pool_has_the_split_bits_and_units_of_its_seeds(tmp_path):
    """Of a seed that is not there nobody knows them, where the metric's name does not tell its split."""
    samples = [{"rougeL": score, "unit": unit} for score, unit in ((0.2, "a"), (0.4, "a"), (0.6, "b"))]
    for k, bits in ((1, 4.5), (2, 4.25)):
        content = {"samples": samples, "value": 40.0, "n": 3, "bits_per_weight": bits, "settings": {"split": "forget"}}
        write_json(
            tmp_path / f"{RUN}/seed{k}/eval/full/again.json", {"metric": "again", "kind": "verbmem", "status": "ok"} | content
        )
    given = [cell | {"metric": "again"} for k in range(3) for cell in cells(f"{RUN}/seed{k}", ["full"], seed=k)]
    found = row(program.aggregate(given, tmp_path)["scores"], seed="all")
    assert (found.split, found.bits_per_weight, found.units, found.n) == ("forget", 4.375, 2, 3)
    assert found.interval == "seeds, then units"
