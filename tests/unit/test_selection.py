"""MUSE's stopping rule: the first checkpoint that forgot as much as the retrain model, at full precision, in numerical order."""

import numpy as np
import pytest

from scripts import aggregate
from scripts.core.analysis import tables
from tests.unit.test_aggregate import RUN, cells, put, reference, row

# VerbMem ×100 of the checkpoints along a training; the last one first, as a plan has them.
AT = {"": 20, "step10": 45, "step20": 30, "step9": 80}


def table(root, retrain):
    """Scores of a run with these checkpoints; the scheme gives back 10 points, but takes nearly all away at step 9."""
    given = []
    put(root, "people/retrain", "bnb_nf4", [0.99] * 2)  # plays no part
    if retrain is not None:
        put(root, "people/retrain", "full", [retrain / 100] * 2)
    for name, score in AT.items():
        run = f"{RUN}/seed0" + (f"/{name}" if name else "")
        put(root, run, "full", [score / 100] * 2)
        put(root, run, "bnb_nf4", [0.01 if name == "step9" else (score + 10) / 100] * 2)
        given += cells(run, checkpoint=name)
    put(root, "people/ga_none/x/seed0", "full", [0.1, 0.1])
    given += cells("people/ga_none/x/seed0", setting="x", method="ga", regularizer="none", checkpoint="")
    given += reference("retrain", scheme_names=("bnb_nf4", "full"))
    return aggregate.aggregate(given, root, stop="verbmem_f")["scores"]


@pytest.mark.parametrize(
    "retrain, picked",
    [(90, "step9"), (45, "step10"), (44.9, "step20"), (25, ""), (20, "")],
)
def test_the_first_at_or_below_the_retrain_model(tmp_path, retrain, picked):
    found = table(tmp_path, retrain)
    full = row(found, checkpoint=tables.STOPPED, scheme="full")
    assert full["value"] == pytest.approx(AT[picked]) and full.status == "ok"
    again = row(found, checkpoint=tables.STOPPED, scheme="bnb_nf4")  # the same checkpoint, whatever its own score is
    assert again["value"] == pytest.approx(1 if picked == "step9" else AT[picked] + 10)
    assert full.run == again.run == f"{RUN}/seed0" + (f"/{picked}" if picked else "")
    assert len(found[found.checkpoint == tables.STOPPED]) == 2  # none of a run that kept no checkpoints


@pytest.mark.parametrize(
    "retrain, reason",
    [
        (19.9, "no checkpoint's verbmem_f is at or below the retrain model's"),
        (None, "verbmem_f of the retrain model at full precision is not there"),
    ],
)
def test_where_none_qualifies_the_row_says_why(tmp_path, retrain, reason):
    found = table(tmp_path, retrain)
    stopped = found[found.checkpoint == tables.STOPPED]
    assert len(stopped) == 2 and stopped["value"].isna().all() and set(stopped.reason) == {reason}
    assert set(stopped.status) == {"missing"} and stopped[["step", "low", "high", "n"]].isna().all(axis=None)


def test_a_checkpoint_without_a_score_is_passed_over(tmp_path):
    table(tmp_path, retrain=45)
    put(tmp_path, f"{RUN}/seed0/step10", "full", status="not finite", value=None, reason="logits are not finite")
    given = [c for name in AT for c in cells(f"{RUN}/seed0" + (f"/{name}" if name else ""), checkpoint=name)]
    found = aggregate.aggregate(reference("retrain") + given, tmp_path, stop="verbmem_f")["scores"]
    assert row(found, checkpoint=tables.STOPPED, scheme="full")["value"] == pytest.approx(30)


def test_no_other_metric_decides(tmp_path):
    """KnowMem falls at once; the retrain model's VerbMem is reached at the second checkpoint."""
    both, along = ("knowmem_f", "verbmem_f"), {"epoch2": (0.0, 0.9), "epoch10": (0.0, 0.3), "": (0.0, 0.1)}
    given = reference("retrain", metrics=both)
    for metric in both:
        put(tmp_path, "people/retrain", "full", [0.4] * 2, metric=metric)
    for name, scores in along.items():
        run = f"{RUN}/seed0" + (f"/{name}" if name else "")
        given += cells(run, metrics=both, checkpoint=name)
        for metric, score in zip(both, scores, strict=True):
            put(tmp_path, run, "full", [score] * 2, metric=metric)
    found = aggregate.aggregate(given, tmp_path, stop="verbmem_f")["scores"]
    assert row(found, checkpoint=tables.STOPPED, scheme="full", metric="verbmem_f").run == f"{RUN}/seed0/epoch10"


def test_pools_of_picked_checkpoints_are_compared_with_their_own_full_precision(tmp_path):
    """Where the last checkpoint is picked its path is the training's, so pools of two settings could be taken for each other's."""
    for scheme in ("full", "bnb_nf4"):
        put(tmp_path, "people/target", scheme, [0.9, 0.91, 0.92])
    put(tmp_path, "people/retrain", "full", [0.5] * 3)
    given = reference("target") + reference("retrain")
    for setting, full in (("a", 0.2), ("b", 0.3)):
        for seed in (0, 1):
            for checkpoint, more in (("step9", 0.3), ("", 0)):
                run = f"people/npo_gdr/{setting}/seed{seed}" + (f"/{checkpoint}" if checkpoint else "")
                for scheme, gain in (("full", 0), ("bnb_nf4", 0.1)):
                    put(tmp_path, run, scheme, np.linspace(0, 0.1, 3) + full + gain + more)
                given += cells(run, seed=seed, setting=setting, checkpoint=checkpoint)
    found = aggregate.aggregate(given, tmp_path, stop="verbmem_f")["recovery"]
    found = found[found.seed == tables.POOLED]
    along = row(found, setting="a", scheme="bnb_nf4", checkpoint="step9")  # beside that checkpoint at full precision
    assert (along.unlearned_full, along.R) == (pytest.approx(55), pytest.approx(10 / (91 - 55)))
    found = found[found.checkpoint == tables.STOPPED]
    assert set(found.run) == {"people/npo_gdr/a/all", "people/npo_gdr/b/all"}
    for setting, full in (("a", 25), ("b", 35)):
        assert row(found, setting=setting, scheme="full").R == 0
        assert row(found, setting=setting, scheme="bnb_nf4").R == pytest.approx(10 / (91 - full))
