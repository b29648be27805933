"""Files of a results folder that were cut off: which run is made anew for them, and of which a person decides."""

import copy

import pytest

from scripts.core.planning import config as configuration
from scripts.core.planning import damage, grid
from scripts.core.storage import read_object, write_json
from tests.workflow.conftest import MICRO

RUN = "people/npo_gdr/lr1e-3_bf16_st4_a1_batch2_sure-module90_at2/seed0"
FILES = [f"{RUN}/outcome.json", f"{RUN}/mask.json", f"{RUN}/step2/outcome.json"]


@pytest.fixture
def cut(tmp_path):
    """A function that cuts files off in a results folder where all others are whole; returns what is found then."""
    config = copy.deepcopy(MICRO)
    config["corpora"]["people"]["model"]["reinforce"] = {"steps": 2, "lr": "1e-3"}
    masked = {"method": "npo", "regularizer": "gdr", "saliency": "module", "max_steps": 4, "checkpoint_at": [2]}
    config["sweep"] = [{"corpus": "people", **block} for block in (masked, {"method": "task_vector", "regularizer": "none"})]
    plan = grid.plan(configuration.resolve(config))
    for path, run in plan.runs.items():
        write_json(tmp_path / path / ("manifest.json" if run.stage == "corpus" else "outcome.json"), {"status": "done"})
    write_json(tmp_path / RUN / "mask.json", {})

    def found(*files):
        for file in files:
            assert (tmp_path / file).exists()
            (tmp_path / file).write_text('{"status": "do')
        return damage.cut_off(plan, tmp_path)

    return found


@pytest.mark.parametrize("file", FILES)
def test_a_run_that_no_other_starts_from_is_made_anew(cut, file):
    assert cut() == {} and cut(file) == {RUN: [file]}


def test_all_files_of_a_run_are_named_under_it(cut):
    found = cut(*FILES)
    assert list(found) == [RUN] and sorted(found[RUN]) == sorted(FILES)


def test_files_that_are_not_there_are_no_damage(cut, tmp_path):
    for file in (*FILES, "people/corpus/manifest.json"):
        (tmp_path / file).unlink()
    assert cut() == {}


def test_the_retrain_model_is_made_anew_too(cut):
    assert cut("people/retrain/outcome.json") == {"people/retrain": ["people/retrain/outcome.json"]}


@pytest.mark.parametrize("name", ["base", "target", "reinforced"])
def test_of_a_model_that_others_start_from_a_person_decides(cut, tmp_path, name):
    file = f"people/{name}/outcome.json"
    with pytest.raises(damage.Damaged, match=f"^{tmp_path}/{file}: was cut off, .* trained anew: rm {tmp_path}/{file}$"):
        cut(file)


def test_a_corpus_is_written_again(cut, tmp_path):
    folder = tmp_path / "people/corpus"
    with pytest.raises(damage.Damaged, match=f"build_corpus --spec {folder}/spec.json --out {folder}$"):
        cut("people/corpus/manifest.json")


@pytest.mark.parametrize("text", ['{"schemes": ', "[]", "", None])
def test_a_record_that_is_missing_damaged_or_of_another_form_is_as_good_as_empty(tmp_path, text):
    if text is not None:
        (tmp_path / "record.json").write_text(text)
    assert read_object(tmp_path / "record.json") == read_object(tmp_path) == {}
