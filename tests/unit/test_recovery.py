"""What K and R are formed of: which metrics tell recovery, and what can't be paired with what."""

import numpy as np
import pytest

from scripts import aggregate as program
from scripts.core.analysis import recovery
from tests.unit.test_aggregate import RUN, cells, put, reference, row

ONE = f"{RUN}/seed0"
SPREAD = np.linspace(-0.1, 0.1, 8)


def made(root, schemes=("full", "bnb_nf4"), target=8, full=8, under=8):
    """Recovery under bnb_nf4, from that many samples of the target, and of the run at full precision and under the scheme."""
    put(root, "people/target", "bnb_nf4", 0.8 + SPREAD[:target])
    put(root, ONE, "full", 0.2 + SPREAD[:full])
    put(root, ONE, "bnb_nf4", 0.5 + SPREAD[:under])
    return row(program.aggregate(reference("target") + cells(ONE, schemes), root)["recovery"], scheme="bnb_nf4")


def test_all_alike_has_both(tmp_path):
    found = made(tmp_path)
    assert (found.K, found.R) == (pytest.approx(0.625), pytest.approx(0.5)) and found.interval == "samples"
    assert (found.unlearned, found.unlearned_full, found.target) == pytest.approx((50, 20, 80))


def test_a_target_with_other_samples_gives_neither(tmp_path):
    found = made(tmp_path, target=7)
    assert np.isnan(found.K) and np.isnan(found.R) and found.interval == ""
    told = "undefined: the unlearned run and the target under bnb_nf4 were scored on different numbers of samples"
    assert (found.K_reason, found.R_reason) == (told, told)


def test_full_precision_with_other_samples_gives_k_alone(tmp_path):
    found = made(tmp_path, full=7)
    assert found.K == pytest.approx(0.625) and np.isnan(found.R) and found.interval == "samples"
    assert (found.K_reason, found.R_reason) == ("", "undefined: full precision was scored on another number of samples")


def test_without_full_precision_there_is_k_alone(tmp_path):
    found = made(tmp_path, schemes=["bnb_nf4"])
    assert found.K == pytest.approx(0.625) and np.isnan(found.R) and np.isnan(found.unlearned_full)
    assert found.R_reason == "missing: the unlearned run at full precision is not in the sweep"


@pytest.mark.parametrize(
    ("kind", "split", "told"),
    [
        ("verbmem", "forget", True),
        ("perplexity", "forget", True),
        ("knowmem", "retain", False),
        ("fluency", "forget", False),  # how varied the text is says nothing of what is known
        ("unheard_of", "forget", False),
    ],
)
def test_recovery_is_told_by_what_is_known_of_the_forget_set(kind, split, told):
    assert recovery.tells_recovery({"kind": kind, "split": split}) is told
