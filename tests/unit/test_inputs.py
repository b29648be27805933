"""What rules read and which of them makes a run (workflow/rules/inputs.smk), without a Snakemake."""

import copy
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.core.storage import write_json
from tests.workflow.conftest import MICRO

RULES = Path(__file__).parents[2] / "workflow/rules/inputs.smk"
MASKED = {"method": "npo", "regularizer": "gdr", "saliency": "module"}


@pytest.fixture
def inputs(tmp_path):
    """A function that reads the file for a sweep with these blocks and this configuration; results are in a temporary folder."""

    def read(*blocks, main=True, cut=None, **more):
        content = copy.deepcopy(MICRO) | more | {"results": str(tmp_path)}
        content["corpora"]["people"]["model"]["reinforce"] = {"steps": 2, "lr": "1e-3"}
        content["sweep"] = [{"corpus": "people", **block} for block in blocks or [MASKED, {"method": "ga", "regularizer": "none"}]]
        config = configuration.resolve(content)
        dag = SimpleNamespace(forcefiles=set())
        names = {
            "config": config,
            "PLAN": grid.plan(config),
            "RESULTS": str(tmp_path),
            "METRICS": list(config["metrics"]),
            "os": os,
        }
        names |= {
            "HERE": "",
            "CUT_OFF": cut or {},
            "OUTPUTS": {"scores": ["scores.csv"]},
            "ARTIFACTS": ["awq"],
            "WorkflowError": ValueError,
        }
        names |= {"workflow": SimpleNamespace(is_main_process=main, dag=dag), "ancient": lambda path: path}
        names |= {"temp": lambda path: ("temp", path), "environment": lambda name: "vllm" if name == "awq" else "train"}
        exec(compile(RULES.read_text(encoding="utf-8"), RULES, "exec"), names)
        return SimpleNamespace(**names, forced=dag.forcefiles)

    return read


def runs(there) -> list[str]:
    """Paths of the unlearned runs, below the corpus."""
    return [run.path.partition("/")[2] for run in there.PLAN.runs.values() if run.stage == "unlearn" and not run.point]


def test_each_run_is_made_by_one_rule(inputs):
    blocks = [MASKED | {"saliency": kind, "max_steps": 8, "checkpoint_at": at}
              for kind in ("none", "module", "row-step") for at in ([], [2], [2, 4])]  # fmt: skip
    blocks += [MASKED | {"max_steps": None, "epochs": 3, "checkpoint_at": [1]}, {"method": "task_vector", "regularizer": "none"}]
    there = inputs(*blocks)
    rules = {there.unlearning(points, kind): there.masked(kind) + there.runs_with(points) for points in there.POINTS
             for kind in there.MASKS}  # fmt: skip
    makers = {run: [name for name, pattern in rules.items() if re.fullmatch(pattern, run)] for run in runs(there)}
    assert len(makers) == 11 and all(len(names) == 1 for names in makers.values()), makers
    made = {name for names in makers.values() for name in names}
    assert made == {f"unlearn{at}{mask}" for at in ("", "_at2", "_at2-4") for mask in ("", "_module", "_row")} | {
        "unlearn_at-ep1_module"
    }
    assert there.ARITHMETIC == ["task_vector"]
    assert not any(re.fullmatch(pattern, f"{run}/step2") for run in runs(there) for pattern in rules.values())


def test_tables_wait_for_every_metric_file_or_with_partial_take_what_is_there(inputs, tmp_path):
    everything = [f"{tmp_path}/{run.path}/eval/{s}/{m}.json" for run, s in inputs().PLAN.cells for m in MICRO["metrics"]]
    whole, cut = everything[:2]
    write_json(whole, {})
    write_json(cut, {})
    Path(cut).write_text('{"value": 1')
    there = inputs()
    assert there.metric_files(None) == everything and there.forced == {"scores.csv", cut}
    job = inputs(main=False)  # each job reads the Snakefile again
    assert job.metric_files(None) == everything and job.forced == set()
    part = inputs(partial=True)
    assert part.metric_files(None) == [whole, cut] and part.forced == set()
    for path in everything:
        write_json(path, {})
    there = inputs()
    assert there.metric_files(None) == everything and there.forced == set()


def test_targets_ask_for_metric_files_that_tables_lack(inputs, tmp_path):
    """Tables that are there and one metric file that no rule makes: else Snakemake would find nothing to do."""
    there = inputs()
    there.OUTPUTS.update(scores=[str(tmp_path / "scores.csv")], figures=["a.svg", "b.svg"])
    everything, (made, *lacking) = there.metric_files(None), there.metric_files(None)
    write_json(Path(made), {"value": 1})
    assert there.complete("scores", "figures")(None) == [str(tmp_path / "scores.csv"), "a.svg", "b.svg"]
    (tmp_path / "scores.csv").touch()
    assert len(everything) > 1 and there.complete("figures")(None) == [*lacking, "a.svg", "b.svg"]
    there.config["partial"] = True
    assert there.complete("figures")(None) == ["a.svg", "b.svg"]


def test_masks_are_those_of_masked_runs_or_with_partial_those_that_are_there(inputs, tmp_path):
    (run,) = (name for name in runs(inputs()) if "sure" in name)
    file = f"{tmp_path}/people/{run}/mask.json"
    assert inputs().mask_files(None) == [file] and inputs(partial=True).mask_files(None) == []
    write_json(file, {})
    assert inputs(partial=True).mask_files(None) == [file]


def test_the_mechanism_of_removed_weights_is_not_asked_for(inputs, tmp_path):
    """A run not yet trained, one with its weights, one whose weights were removed, and two of these that were measured before."""
    names = ["new", "kept", "removed", "measured", "cut"]
    blocks = [{"method": "ga", "regularizer": "none", "seed": seed} for seed in range(len(names))]
    folders = dict(zip(names, [f"{tmp_path}/people/{run}" for run in runs(inputs(*blocks))], strict=True))
    for name in names[1:]:
        write_json(f"{folders[name]}/outcome.json", {})
    for name in ("measured", "cut", "kept"):
        write_json(f"{folders[name]}/mechanism.json", {})
    for name in ("cut", "kept"):
        Path(f"{folders[name]}/mechanism.json").write_text("{")
    Path(f"{folders['kept']}/checkpoint").mkdir()

    def asked(**more):
        there = inputs(*blocks, **more)
        return there.mechanism_files(None), there.forced

    files = {name: f"{folder}/mechanism.json" for name, folder in folders.items()}
    assert asked() == ([files["new"], files["kept"], files["measured"]], {files["kept"]})
    assert asked(partial=True) == ([files["measured"]], set())
    assert asked(main=False)[1] == set()


def test_checkpoints_along_a_training_have_no_mechanism(inputs, tmp_path):
    there = inputs({"method": "ga", "regularizer": "none", "checkpoint_at": [2]})
    assert there.mechanism_files(None) == [f"{tmp_path}/people/{runs(there)[0]}/mechanism.json"]
    assert there.POINTS == [(), ("step2",)]  # the rule `unlearn` is there in any case


def test_the_base_is_read_where_one_is_trained(inputs, tmp_path):
    at = SimpleNamespace(corpus="people")
    assert inputs().base(at)["base"] == f"{tmp_path}/people/base/outcome.json"
    there = inputs()
    there.config["corpora"]["people"]["model"]["kind"] = "pretrained"
    assert there.base(at) == {}


def test_schemes_of_a_run_and_what_they_keep_on_disk(inputs, tmp_path):
    there = inputs(
        schemes=MICRO["schemes"] | {"awq": {"kind": "awq", "group": 16, "calibration": "forget", "samples": 2, "length": 16}}
    )
    run = runs(there)[0]
    at = SimpleNamespace(corpus="people", run=run, model=run)
    assert there.schemes_of(at) == ["full", "rtn_int4", "awq"]
    assert there.scheme_files(at) == [f"{tmp_path}/people/schemes/{name}.json" for name in there.schemes_of(at)]
    assert there.scheme_artifacts(at) == [f"{tmp_path}/people/{path}/quantized/awq" for path in (run, "target")]


@pytest.mark.parametrize("store, scheme, model, folder", [
    ("full", "awq", "m", "checkpoint"),
    ("delta", "awq", "m", "restored"),
    ("delta", "rtn_int4", "m", "checkpoint"),
    ("delta", "awq", "target", "checkpoint"),
    ("delta", "awq", "retrain", "checkpoint"),
])  # fmt: skip
def test_another_environment_reads_whole_weights(inputs, tmp_path, store, scheme, model, folder):
    there = inputs(store_checkpoints=store)
    assert there.whole_weights(scheme)(SimpleNamespace(corpus="people", model=model)) == f"{tmp_path}/people/{model}/{folder}"


def test_checkpoints_go_when_the_configuration_says_so(inputs):
    kept = {keep: inputs(keep_checkpoints=keep).kept for keep in ("all", "last", "until_evaluated")}
    assert [keep("path") for keep in kept.values()] == ["path", "path", ("temp", "path")]
    assert [keep("path", "last") for keep in kept.values()] == ["path", ("temp", "path"), ("temp", "path")]


def test_a_file_that_differs_from_the_configuration_is_written_again(inputs, tmp_path):
    there = inputs()
    path = f"people/{runs(there)[0]}/spec.json"
    ask = there.when_changed("people/{run}/spec.json")
    at = {"run": runs(there)[0]}
    assert ask(at) == [] and there.forced == set()
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(there.TEXTS[path])
    assert ask(at) == [] and there.forced == set()
    (tmp_path / path).write_text("{}")
    assert ask(at) == [] and there.forced == {f"{tmp_path}/{path}"}
    with pytest.raises(ValueError, match="people/x/spec.json: the configuration has no such run or scheme"):
        ask({"run": "x"})
    there = inputs(cut={f"people/{at['run']}": [f"people/{at['run']}/outcome.json"]})
    (tmp_path / path).write_text(there.TEXTS[path])
    assert there.when_changed("people/{run}/spec.json")(at) == []
    assert there.forced == {f"{tmp_path}/people/{at['run']}/outcome.json"}
    (tmp_path / path).write_text("{}")
    job = inputs(main=False)
    assert job.when_changed("people/{run}/spec.json")(at) == [] and job.forced == set()
