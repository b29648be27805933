"""What is left of a job that failed or was killed, and of files that were cut off, does not pass for a result."""

import base64
import os
import shutil
import time

import pytest

from scripts import build_corpus
from scripts.core import guard
from scripts.core.storage import write_json
from tests.workflow.conftest import MICRO, Sweep

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


def cut(path) -> None:
    """Leave the first bytes of a file alone."""
    with open(path, "r+b") as file:
        file.truncate(20)


@pytest.mark.parametrize("file, jobs", [("outcome.json", {"unlearn": 1}), ("mechanism.json", {"unlearn": 0, "mechanism": 1})])
def test_a_run_whose_file_was_cut_off_is_made_anew(copied, file, jobs):
    """Its evaluation failed, at each start, until somebody removed the run by hand."""
    sweep, run = copied
    cut(run / file)
    planned = sweep.jobs("explanation")
    assert {rule: planned.get(rule, 0) for rule in jobs} == jobs


@pytest.mark.parametrize(
    "file, words", [("target/outcome.json", "rm "), ("corpus/manifest.json", "python -m scripts.build_corpus --spec ")]
)
def test_a_file_that_other_models_start_from_is_told_before_they_are_lost(copied, file, words):
    """Each of their jobs had its old outputs removed, and then failed on reading the file."""
    sweep, run = copied
    whole = (sweep.results / "people" / file).read_bytes()
    cut(sweep.results / "people" / file)
    done = sweep.run(check=False)
    assert done.returncode and f"people/{file}: was cut off, " in (said := done.stdout + done.stderr) and words in said
    assert (run / "outcome.json").exists() and (run / "checkpoint").is_dir()
    if "build_corpus" in words:
        path = [part for part in said.split() if part.endswith("corpus/spec.json")][-1]
        assert build_corpus.main(["--spec", str(sweep.folder / path), "--out", str(sweep.results / "people/corpus")]) == 0
        assert (sweep.results / "people" / file).read_bytes() == whole and sweep.jobs() == {}


def test_two_project_folders_do_not_write_to_one_results_folder(tmp_path):
    """Snakemake's lock lies in the folder where it was started: it does not see the other."""
    sweep = Sweep(tmp_path, MICRO)
    other = guard.this_process() | {"folder": "/another/clone"}  # whose Snakemake is this test's process
    write_json(sweep.results / guard.NAME, other)
    path = f"{sweep.config['results']}/sweep.json"
    assert sweep.jobs(path) == {"sweep": 1}  # a dry run is no matter of the other
    done = sweep.run(path, check=False)
    assert done.returncode and "another Snakemake writes there" in done.stdout + done.stderr
    assert sweep.files() == {guard.NAME}
    write_json(sweep.results / guard.NAME, other | {"pid": 2**22 + 1})  # beyond all numbers of processes: one that was killed
    sweep.run(path)
    assert sweep.files() == {"sweep.json"}


def test_a_date_in_the_future_costs_no_work(copied):
    """Snakemake would remove what a job has made of such a file."""
    sweep, run = copied
    tomorrow = time.time() + 86400
    os.utime(sweep.results / "people/corpus/manifest.json", (tomorrow, tomorrow))
    (run / METRIC).unlink()
    sweep.run(str((run / METRIC).relative_to(sweep.folder)))
    assert (run / METRIC).exists() and evaluations(sweep) == 0
