"""What jobs ask for (workflow/rules/resources.smk): it grows with the model and each attempt, and stays below the site's limits."""

import copy
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.core import registry
from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from tests.workflow.conftest import MICRO

RULES = Path(__file__).parents[2] / "workflow/rules/resources.smk"
PUBLISHED = {"kind": "pretrained", "target": "lab/t", "retrain": "lab/r", "billions": 6.7}
PEOPLE, NEWS = SimpleNamespace(corpus="people"), SimpleNamespace(corpus="news")


def resources(main=True, schemes=None, **settings):
    """The names of the file, read with the micro sweep, a second corpus with a published model, and these settings."""
    config = copy.deepcopy(MICRO)
    config["schemes"] |= schemes or {}
    config["corpora"]["news"] = config["corpora"]["people"] | {"model": PUBLISHED}
    config["resources"] |= {"max_mem_mb": 10**9, "max_runtime": 10**9} | settings
    names = {"config": configuration.resolve(config), "workflow": SimpleNamespace(is_main_process=main), "registry": registry}
    names["PLAN"] = grid.plan(names["config"])
    exec(compile(RULES.read_text(encoding="utf-8"), RULES, "exec"), names)
    return SimpleNamespace(**names)


def test_memory_grows_with_model_and_attempt_up_to_the_limit():
    ask = resources().mem_mb(20)
    assert [ask(NEWS, attempt) for attempt in (1, 2, 3)] == [pytest.approx(n * (4 + 20 * 6.7) * 1024, abs=1) for n in (1, 2, 3)]
    assert ask(PEOPLE, 1) == pytest.approx(4 * 1024, rel=0.01)  # a model of some thousand weights: the libraries alone
    assert resources(max_mem_mb=200_000).mem_mb(20)(NEWS, 2) == 200_000


def test_each_process_of_a_training_has_memory_for_the_weights_that_a_resume_reads():
    assert resources().TRAINING_MB(NEWS, 1) == resources(gpus=0).TRAINING_MB(NEWS, 1) == resources().mem_mb(20)(NEWS, 1)
    assert resources(gpus=8).TRAINING_MB(NEWS, 1) - resources().TRAINING_MB(NEWS, 1) == pytest.approx(7 * 4 * 6.7 * 1024, abs=1)


def test_minutes_grow_with_model_share_and_attempt_up_to_the_limit():
    there = resources(hours_per_billion=2.0)
    assert there.runtime(1)(NEWS, 1) == 15 + 60 * 2 * 6.7
    assert there.runtime(0.5)(NEWS, 3) == 3 * (15 + 60 * 6.7)
    assert there.runtime(1)(PEOPLE, 2) == 30
    assert resources(hours_per_billion=2.0, max_runtime=720).runtime(1)(NEWS, 1) == 720


def test_only_the_outermost_snakemake_tries_again():
    assert resources(retries=3).RETRIES == 3 and resources(main=False, retries=3).RETRIES == 0


def test_every_job_that_is_submitted_is_tried_again():
    """A download, and a copy that others wait for, too. Those of `local` files run where Snakemake does."""
    local = {"analyse.smk", "figures.smk", "report.smk", "common.smk", "resources.smk", "inputs.smk"}
    for path in sorted(RULES.parent.glob("*.smk")):
        for text in re.split(r"(?m)^ *(?:check)?rule\b", path.read_text())[1:] if path.name not in local else ():
            submitted = "localrule: True" not in text and "printf '%s'" not in text
            assert not submitted or "retries: RETRIES" in text, f"{path.name}: {text[:40]}"


def test_ranks_are_those_of_the_site():
    one = resources(gpus=4, threads=2, nodes=1, gpu_model="h100", gpu_gb=40)
    assert (one.RANKS["gpu"], one.RANKS["processes"], one.RANKS["hosts"], one.THREADS) == (4, 4, 1, 4)
    assert not {"nodes", "mpi", "tasks"} & one.RANKS.keys() and one.GPU_MODEL == "h100"
    several = resources(gpus=4, threads=6, nodes=2)
    assert (several.RANKS["gpu"], several.RANKS["processes"], several.RANKS["hosts"], several.THREADS) == (8, 4, 2, 6)
    assert [several.RANKS[name] for name in ("nodes", "tasks", "tasks_per_gpu", "mpi")] == [2, 2, 0, "srun"]
    # Snakemake fills in a job's resources.
    said = one.LAUNCH.format(resources=SimpleNamespace(**one.RANKS))
    assert said == "--gpus 4 --nodes 1 --zero auto --offload auto --gpu-gb 40"


def test_a_model_that_is_copied_asks_for_little_and_one_that_is_trained_for_what_it_takes():
    there = resources(gpus=4, nodes=2, hours_per_billion=2.0, gpu_model="h100")
    given = {**there.RANKS, "mem_mb": there.mem_mb(20), "runtime": there.runtime(1), "gpu_model": there.GPU_MODEL}
    asked = there.unless_copied(**given)

    def job(wildcards):
        return {name: value(wildcards, 1) if callable(value) else value for name, value in asked.items()}

    trained, copied = job(PEOPLE), job(NEWS)
    assert trained == {name: value(PEOPLE, 1) if callable(value) else value for name, value in given.items()}
    assert copied["mem_mb"] == int((4 + 6.7) * 1024) and copied["runtime"] == int(15 + 0.3 * 60 * 2 * 6.7)
    assert [copied[name] for name in ("gpu", "gpu_model", "nodes", "tasks", "mpi")] == [0, "", 1, 1, ""]
    assert asked["mem_mb"](NEWS, 3) == int(3 * (4 + 6.7) * 1024)


CALIBRATED = {"gguf": {"kind": "gguf"}, "awq": {"kind": "awq", "group": 16, "calibration": "forget", "samples": 8, "length": 32}}


def test_a_library_that_uses_no_gpu_gets_none():
    there = resources(schemes=CALIBRATED, gpus=4)
    assert (there.gpus_of("awq"), there.gpus_of("gguf")) == (1, 0)
    without = resources(schemes=CALIBRATED, gpus=0, gpu_model="h100")
    assert without.gpus_of("awq") == 0 and without.GPU_MODEL == ""  # a model alone would be asked for


def test_a_corpus_is_told_what_calibration_takes_of_it():
    there = resources(schemes=CALIBRATED)
    assert (there.demands(PEOPLE), there.demands(NEWS)) == ("awq=forget:8x32", "")  # no cell of the sweep reads news
