"""One metric file into one row: which key says what, and what makes a file's scores unusable."""

import numpy as np
import pytest

from scripts import aggregate as program
from scripts.core.analysis import statistics
from scripts.core.storage import write_json
from tests.unit.test_aggregate import RUN, cells, put, reference, row, texts

ONE = f"{RUN}/seed0"


def only(root, **labels):
    """The row of the one cell at full precision."""
    return row(program.aggregate(cells(ONE, ["full"], **labels), root)["scores"])


def test_the_plan_says_the_split_whatever_a_metric_is_called(tmp_path):
    assert only(tmp_path, split="retain").split == "retain", "no file"
    put(tmp_path, ONE, "full", [0.1, 0.2], settings={"split": "forget"})
    assert only(tmp_path, split="retain").split == "retain"
    assert only(tmp_path).split == "forget"


def test_a_file_without_samples_says_itself_how_many_there_were(tmp_path):
    put(tmp_path, ONE, "full", value=30.0, n=7)
    found = only(tmp_path)
    assert (found["value"], found.n) == (30, 7) and np.isnan(found.low)


def test_a_job_that_left_no_scores_is_told_by_the_log_of_its_own_stage(tmp_path):
    write_json(tmp_path / ONE / "outcome.json", {"status": "done", "step": 9})
    for job in ("unlearn", "evaluate_full"):
        (tmp_path / "logs" / ONE).mkdir(parents=True, exist_ok=True)
        (tmp_path / "logs" / ONE / f"{job}.log").write_text(f"the end of {job}\n")
    assert only(tmp_path).reason == "evaluate_full did not finish; its log ends: the end of evaluate_full"


PRIVLEAK = {"metrics": ["privleak"]}


def privleak(root):
    """The row of the run's PrivLeak, with a retrain run beside it."""
    texts(root, "people/retrain", "full", [3.0, 4.0], [1.0, 2.0])
    given = cells(ONE, ["full"], **PRIVLEAK) + reference("retrain", scheme_names=["full"], **PRIVLEAK)
    return row(program.aggregate(given, root)["scores"], method="npo")


def test_muse_s_own_privleak_files_are_read(tmp_path):
    scores = {"forget": {"Min-40%": [3.0, 1.0]}, "holdout": {"Min-40%": [2.0, 0.0]}}
    write_json(tmp_path / ONE / "eval/full/privleak.json", {"kind": "privleak", "scores": scores, "value": 75.0})
    found = privleak(tmp_path)
    assert (found.status, found["value"]) == ("ok", pytest.approx(-25))


def test_a_text_without_a_finite_score_makes_no_auc(tmp_path):
    """A comparison with NaN is false, so that an AUC would come out all the same."""
    texts(tmp_path, ONE, "full", [1.0, 0.123], [2.0, 4.0])
    file = tmp_path / ONE / "eval/full/privleak.json"
    file.write_text(file.read_text().replace("0.123", "NaN"))  # as Python's own json writes it
    found = privleak(tmp_path)
    assert np.isnan(found["value"]) and found.status == "not finite" and "no finite Min-40%" in found.reason


def test_units_of_privleak_are_those_of_the_forget_texts(tmp_path):
    samples = {
        "forget": {"Min-40%": [1.0, 2.0, 3.0], "unit": ["a", "a", "b"]},
        "holdout": {"Min-40%": [0.1, 0.2, 0.3], "unit": ["x", "y", "z"]},
    }
    for run in (ONE, "people/retrain"):
        put(tmp_path, run, "full", metric="privleak", samples=samples, value=50.0)
    given = cells(ONE, ["full"], **PRIVLEAK) + reference("retrain", scheme_names=["full"], **PRIVLEAK)
    found = row(program.aggregate(given, tmp_path)["scores"], method="npo")
    assert (found.n, found.units, found.interval) == (3, 2, "units")


def test_an_interval_of_privleak_draws_units_of_both_models_together(tmp_path):
    generator, units, drawn = np.random.default_rng(5), {"forget": "aaaabbbccd", "holdout": "wwwxxxyyzz"}, []
    left, right = (
        statistics.counts(4, stream)[:, [sorted(set(own)).index(unit) for unit in own]] for stream, own in enumerate(units.values())
    )
    for run, shift in ((ONE, -0.4), ("people/retrain", 0.0)):
        forget, holdout = generator.normal(shift, 1, 10), generator.normal(0, 1, 10)
        samples = {part: {"Min-40%": list(own)} for part, own in (("forget", forget), ("holdout", holdout))}
        for part, own in units.items():
            samples[part]["unit"] = list(own)
        put(tmp_path, run, "full", metric="privleak", samples=samples, value=50.0)
        pairs = zip(left, right, strict=True)
        drawn.append(np.array([statistics.auc(np.repeat(forget, a), np.repeat(holdout, b)) for a, b in pairs]))
    given = cells(ONE, ["full"], **PRIVLEAK) + reference("retrain", scheme_names=["full"], **PRIVLEAK)
    found = row(program.aggregate(given, tmp_path)["scores"], method="npo")
    expected = np.percentile(100 * (drawn[0] / drawn[1] - 1), [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(tuple(expected)) and found.interval == "units"


def test_draws_in_which_the_retrain_model_has_no_auc_are_left_out(tmp_path):
    """One forget text in four that all holdout texts exceed: a draw of it alone has AUC 0."""
    texts(tmp_path, ONE, "full", [3.0] * 4, [2.0] * 4)
    texts(tmp_path, "people/retrain", "full", [1.0, 3.0, 3.0, 3.0], [2.0] * 4)
    given = cells(ONE, ["full"], **PRIVLEAK) + reference("retrain", scheme_names=["full"], **PRIVLEAK)
    with np.errstate(divide="raise", invalid="raise"):
        found = row(program.aggregate(given, tmp_path)["scores"], method="npo")
    assert (found["value"], found.low, found.high) == (pytest.approx(100 / 3), 0, pytest.approx(300))


def test_privleak_of_several_seeds_is_their_mean(tmp_path):
    texts(tmp_path, ONE, "full", [1.0, 4.0], [2.0, 3.0])
    texts(tmp_path, f"{RUN}/seed1", "full", [4.0, 5.0], [2.0, 3.0])
    texts(tmp_path, "people/retrain", "full", [2.0, 2.0], [2.0, 2.0])
    given = [cell for k in range(2) for cell in cells(f"{RUN}/seed{k}", ["full"], seed=k, **PRIVLEAK)]
    given += reference("retrain", scheme_names=["full"], **PRIVLEAK)
    found = row(program.aggregate(given, tmp_path)["scores"], seed="all")
    assert found["value"] == pytest.approx((0 + 100) / 2)
