"""What is left of a job that failed or was killed, and of files that were cut off, does not pass for a result."""

import base64
import os
import shutil
import time

import pytest

METRIC = "eval/full/verbmem_f.json"


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished micro sweep, with Snakemake's records, and the folder of one of its runs."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    sweep = type(finished)(tmp_path / "copy", finished.config | {"resources": finished.config["resources"] | {"retries": 0}})
    return sweep, next(sweep.results.glob("people/ga_none/*/seed0"))


def evaluations(sweep) -> int:
    """How many evaluations a dry run announces."""
    return sweep.jobs().get("evaluate_full", 0)


def test_scores_that_could_not_be_renewed_are_still_to_be_made(copied):
    """Snakemake puts the old files back: with the date of today and a new record they counted as the new scores."""
    sweep, run = copied
    metrics = sweep.config["metrics"]
    sweep.config["metrics"] = metrics | {"verbmem_f": metrics["verbmem_f"] | {"new_tokens": 9}}
    weights = (run / "checkpoint/delta.safetensors").rename(run / "away")
    path = str((run / METRIC).relative_to(sweep.folder))
    failed = sweep.run(path, check=False)
    assert failed.returncode and "Restored previous version" in failed.stdout + failed.stderr
    weights.rename(run / "checkpoint/delta.safetensors")
    assert evaluations(sweep) == 6  # of all models
    sweep.run(path)
    assert '"new_tokens": 9' in (run / METRIC).read_text()
    assert evaluations(sweep) == 5


def test_what_a_killed_run_left_is_made_anew_without_being_told_to(copied):
    sweep, run = copied
    mark = base64.urlsafe_b64encode(str((run / METRIC).relative_to(sweep.folder)).encode()).decode()
    folder = sweep.folder / ".snakemake/incomplete"
    (folder / mark).write_text("{}")
    assert evaluations(sweep) == 1


@pytest.mark.parametrize("left", [0, 100])
def test_a_metric_file_that_was_cut_off_is_made_anew(copied, left):
    """By a copy that a full disk ended, say: its cell would be missing in the tables for good."""
    sweep, run = copied
    with open(run / METRIC, "r+b") as file:
        file.truncate(left)
    assert evaluations(sweep) == 1


def test_a_date_in_the_future_costs_no_work(copied):
    """Snakemake would remove what a job has made of such a file."""
    sweep, run = copied
    tomorrow = time.time() + 86400
    os.utime(sweep.results / "people/corpus/manifest.json", (tomorrow, tomorrow))
    (run / METRIC).unlink()
    sweep.run(str((run / METRIC).relative_to(sweep.folder)))
    assert (run / METRIC).exists() and evaluations(sweep) == 0
