"""What a change of the configuration recomputes: the new cells, and nothing else. Dry runs on a finished sweep."""

import copy
import os
import shutil

import pytest

from scripts.core import isolation, registry
from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.core.storage import write_text

# What is made anew whenever the table of cells grows: the table, the scores, the figures that are drawn from them.
AFTERWARDS = ("all", "aggregate", "draw_", "sweep", "tables", "pages", "masks", "calibration_effect")
AFTERWARDS += ("mechanism_tables", "predict", "costs")


def new(sweep) -> dict[str, int]:
    """Jobs of a dry run, without those that only gather."""
    return {rule: count for rule, count in sweep.jobs().items() if not rule.startswith(AFTERWARDS)}


def test_a_finished_sweep_has_nothing_to_do(grown):
    assert grown.jobs() == {}


def test_contents_decide_without_snakemakes_records(grown, tmp_path):
    """.snakemake is often removed to get rid of a lock; a configuration that has changed must not pass for the one that was run.

    Before the tests that touch files: without records, Snakemake goes by dates.
    """
    records = grown.folder / ".snakemake"
    records.rename(tmp_path / "records")
    try:
        assert grown.jobs() == {}
        grown.config["corpora"]["people"]["model"]["finetune"]["steps"] = 5
        assert new(grown) == {"spec": 6, "reference": 2, "unlearn": 4, "evaluate_full": 6, "mechanism": 4}
    finally:
        shutil.rmtree(records)
        (tmp_path / "records").rename(records)


def test_one_more_learning_rate(grown):
    grown.config["sweep"].append({"corpus": "people", "method": "ga", "regularizer": "gdr", "lr": "2e-3"})
    assert new(grown) == {"spec": 1, "unlearn": 1, "evaluate_full": 1, "mechanism": 1}


def test_one_more_method_and_regularizer(grown):
    grown.config["sweep"][0]["regularizer"] = ["none", "gdr", "klr"]
    assert new(grown) == {"spec": 2, "unlearn": 2, "evaluate_full": 2, "mechanism": 2}


def test_one_more_seed(grown):
    grown.config["sweep"][0]["seed"] = [0, 1]
    assert new(grown) == {"spec": 4, "unlearn": 4, "evaluate_full": 4, "mechanism": 4}


def test_one_more_scheme_evaluates_without_training(grown):
    grown.config["schemes"]["rtn_int3"] = {"kind": "rtn", "bits": 3, "granularity": "tensor"}
    assert new(grown) == {"scheme": 2, "evaluate_rtn_int3": 6, "mechanism": 4}


def test_a_changed_scheme_evaluates_and_compares_anew(grown):
    grown.config["schemes"]["rtn_int4"]["bits"] = 3
    assert new(grown) == {"scheme": 2, "evaluate_full": 6, "mechanism": 4}


def test_one_more_metric_evaluates_without_training(grown):
    grown.config["metrics"]["verbmem_r"] = {"kind": "verbmem", "split": "retain", "new_tokens": 8}
    assert new(grown) == {"scheme": 2, "evaluate_full": 6}


def test_a_changed_metric_evaluates_anew(grown):
    grown.config["metrics"]["verbmem_f"]["new_tokens"] = 9
    assert new(grown) == {"scheme": 2, "evaluate_full": 6}


def test_a_changed_recipe_trains_what_depends_on_it(grown):
    grown.config["corpora"]["people"]["model"]["finetune"]["steps"] = 5
    assert new(grown) == {"spec": 6, "reference": 2, "unlearn": 4, "evaluate_full": 6, "mechanism": 4}


def test_comments_key_order_and_defaults_spelled_out_change_nothing(grown):
    grown.config = dict(reversed(grown.config.items()))
    grown.config["unlearning"]["clip"] = 1.0
    grown.config["sweep"][0]["regularizer"] = ["gdr", "none"]
    assert new(grown) == {}


def test_what_only_steers_the_machine_changes_nothing(grown):
    grown.config["resources"] |= {"max_runtime": 99, "save_minutes": 1, "retries": 0}
    assert new(grown) == {}


def test_dates_change_nothing(grown):
    for path in grown.results.rglob("*.json"):
        os.utime(path)
    for program in ("train", "unlearn", "evaluate"):
        assert (grown.results / "people/target/checkpoint").is_dir(), program
    os.utime(grown.results / "people/target/checkpoint")
    assert new(grown) == {}


def test_values_of_the_command_line_are_those_of_a_file(grown):
    """As the README and a preset have them; and ./ before the results folder is the same folder."""
    assert grown.jobs("--config", "partial=true", "resources={gpus: 1}", f"results=./{grown.config['results']}/") == {}


def test_a_file_that_no_cell_of_the_sweep_has(grown):
    path = f"{grown.config['results']}/people/ga_gdr/lr9e-9/seed0/outcome.json"
    done = grown.run("--dry-run", path, check=False)
    assert done.returncode and "the configuration has no such run or scheme" in done.stdout + done.stderr


def test_keeping_weights_another_way_changes_nothing(grown):
    grown.config["store_checkpoints"] = "full"
    assert new(grown) == {}


@pytest.fixture
def with_gguf(grown, tmp_path, monkeypatch):
    """The finished sweep with one more scheme, which quantizes in an environment of its own, as far as a dry run can tell."""
    (tmp_path / "gguf" / "bin").mkdir(parents=True)
    (tmp_path / "gguf" / "bin" / "python").touch()
    (tmp_path / "gguf" / isolation.MARK).write_text(isolation.digest("gguf"))
    monkeypatch.setenv("UNLEARNING_ENVS", str(tmp_path))
    grown.config["schemes"]["gguf"] = {"kind": "gguf", "type": "q4_0"}
    return grown


@pytest.mark.parametrize("store, jobs", [("delta", {"restore": 4}), ("full", {})])
def test_another_environment_reads_restored_weights(with_gguf, store, jobs):
    """GGUF's environment can't read differences: unlearned models are restored for it, target and retrain are whole."""
    with_gguf.config["store_checkpoints"] = store
    assert new(with_gguf) == {"scheme": 2, "quantize_gguf": 6, "evaluate_gguf": 6, "mechanism": 4} | jobs


def test_checkpoints_along_a_training_are_restored_for_it_too(with_gguf):
    with_gguf.config["sweep"][0]["checkpoint_at"] = [2]
    trained = {"spec": 4, "unlearn_at2": 4, "mechanism": 4}  # the setting has another name
    models = {"evaluate_full": 8, "evaluate_gguf": 10, "quantize_gguf": 10, "restore": 8}
    assert new(with_gguf) == {"scheme": 2} | trained | models


def test_quantized_models_are_made_anew_for_another_scheme_alone(grown):
    """Neither for another metric nor for another engine: on a large model they are hours of a GPU."""
    grown.config["schemes"]["awq"] = {"kind": "awq", "group": 32}
    grown.config["evaluation"]["batch_tokens"] = 4096
    place, path = grown.results / "people", "people/schemes/awq.json"
    write_text(grown.results / path, grid.plan(configuration.resolve(copy.deepcopy(grown.config))).texts()[path])
    models = [place / "target", place / "retrain", *place.glob("*_*/*/seed0")]
    for model in models:
        (model / "quantized/awq").mkdir(parents=True)
    try:
        jobs = {"scheme": 3, "evaluate_full": 6, "evaluate_awq": 6, "mechanism": 4}
        assert new(grown) == jobs
        grown.config["schemes"]["awq"]["samples"] = 3
        assert new(grown) == jobs | {"scheme": 4, "quantize_awq": 6}
    finally:
        (grown.results / path).unlink()
        for model in models:
            shutil.rmtree(model / "quantized")


def test_figures_are_redrawn_without_evaluating(grown):
    for path in (grown.results / "figures").iterdir():
        path.unlink()
    try:
        read = {"_".join(sorted(registry.constants("figures", name)["TABLES"])) for name in registry.names("figures")}
        assert grown.jobs("figures") == {"figures": 1} | {f"draw_{tables}": 1 for tables in read}
    finally:
        grown.run("figures")


def test_scores_and_what_schemes_cost_are_made_by_one_job(grown):
    """A run that ends between two would leave seconds of evaluations that were repeated, and nothing would tell."""
    table = grown.results / "schemes.csv"
    content = table.read_bytes()
    table.unlink()
    try:
        assert grown.jobs("scores") == {"scores": 1, "aggregate": 1}
    finally:
        table.write_bytes(content)


def test_a_figure_that_was_broken_is_drawn_by_itself(grown):
    """So that its code, which fails again, does not take the others with it."""
    mark, files = grown.results / "figures/.recovery_heatmap.broken", list((grown.results / "figures").glob("*_*.*"))
    contents = {path: path.read_bytes() for path in files}
    tables = "_".join(sorted(registry.constants("figures", "recovery_heatmap")["TABLES"]))
    mark.touch()
    try:
        for path in files:
            path.unlink()
        jobs = grown.jobs("figures")
        assert jobs[f"draw_{tables}"] == jobs[f"draw_{tables}_recovery_heatmap"] == 1
    finally:
        mark.unlink()
        for path, content in contents.items():
            path.write_bytes(content)


def test_removed_weights_are_not_trained_again_for_a_figure(grown, tmp_path):
    run = next(grown.results.glob("people/ga_none/*/seed0"))
    grown.config["keep_checkpoints"] = "until_evaluated"
    names = ("checkpoint", "mechanism.json")
    for name in names:
        (run / name).rename(tmp_path / name)
    try:
        assert new(grown) == {}
    finally:
        for name in names:
            (tmp_path / name).rename(run / name)


def test_a_cell_that_was_removed_is_made_anew(grown, tmp_path):
    """Though the tables that were made of it are there."""
    run = next(grown.results.glob("people/ga_none/*/seed0"))
    run.rename(tmp_path / "removed")
    try:
        found = new(grown)
    finally:
        (tmp_path / "removed").rename(run)
    assert found == {"spec": 1, "unlearn": 1, "evaluate_full": 1, "mechanism": 1}


def test_checkpoints_is_a_target_of_its_own(grown):
    grown.config["results"] = "elsewhere"
    jobs = grown.jobs("checkpoints")
    assert jobs == {"checkpoints": 1, "spec": 8, "corpus": 1, "base": 1, "reference": 2, "unlearn": 4}


@pytest.mark.parametrize("bad, words", [("npoo", "did you mean 'npo'"), ("", "unknown name ''")])
def test_a_wrong_configuration_starts_nothing(grown, bad, words):
    grown.config["sweep"][0]["method"] = bad
    done = grown.run(check=False)
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "config: sweep[0].method" in line]
    assert len(lines) == 1 and words in lines[0]
    assert "Job stats" not in done.stdout + done.stderr
