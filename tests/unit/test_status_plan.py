"""Status and plan: counts from files alone, at the size of a real sweep, and costs with their source."""

import copy
import json
import time
from pathlib import Path

import pytest
import yaml

from scripts import plan as costs
from scripts import status
from scripts.core.planning import config as configuration
from scripts.core.planning import grid, memory, sweep
from scripts.core.planning.plan import Plan

MICRO = yaml.safe_load((Path(__file__).parents[1] / "workflow/micro.yaml").read_text())


def make(tmp_path, monkeypatch, **changes) -> Plan:
    """The plan of the micro sweep with changes, in an empty working folder that also holds its configuration."""
    monkeypatch.chdir(tmp_path)
    config = copy.deepcopy(MICRO) | changes
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    return grid.plan(configuration.resolve(config))


def touch(path: Path, text: str = "{}\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_each_state_is_told_from_files(tmp_path, monkeypatch):
    plan = make(tmp_path, monkeypatch)
    results = Path(plan.config["results"])
    runs = [run.path for run in plan.evaluated()]
    done, diverged, failed, evaluation_failed = runs[:4]
    for path in (done, evaluation_failed):
        touch(results / path / "outcome.json", json.dumps({"status": "done"}))
    touch(results / diverged / "outcome.json", json.dumps({"status": "diverged", "step": 3}))
    for metric in plan.config["metrics"]:
        touch(results / done / "eval/full" / f"{metric}.json")
    touch(results / "logs" / failed / "unlearn.log", "killed")
    touch(results / "logs" / evaluation_failed / "evaluate_full.log", "killed")
    found = {(columns["run"], columns["scheme"]): state for columns, state in status.states(plan, results)}
    assert found[done, "full"] == "done" and found[done, "rtn_int4"] == "missing"
    assert found[diverged, "full"] == found[diverged, "rtn_int4"] == "diverged"
    assert found[failed, "full"] == found[evaluation_failed, "full"] == "failed"
    assert found[runs[4], "full"] == "missing"


def test_a_running_training_is_told_by_snakemakes_marks(tmp_path, monkeypatch):
    plan = make(tmp_path, monkeypatch)
    results = Path(plan.config["results"])
    run = plan.evaluated()[2].path
    monkeypatch.setattr(status, "being_made", lambda folder: {f"{plan.config['results']}/{run}/outcome.json"})
    found = {(columns["run"], columns["scheme"]): state for columns, state in status.states(plan, results)}
    assert found[run, "full"] == found[run, "rtn_int4"] == "running"


def test_damaged_files_are_as_good_as_none(tmp_path, monkeypatch):
    """What a full disk or a crash of the machine cut off: an outcome, and a benchmark that Snakemake was writing."""
    plan = make(tmp_path, monkeypatch)
    results, runs = Path(plan.config["results"]), [run.path for run in plan.evaluated()]
    for path, text in zip(runs, ('{"status": "do', "[]", "{}", ""), strict=False):
        touch(results / path / "outcome.json", text)
        touch(results / "benchmarks" / path / "unlearn.tsv", "s\th:m:s\n"[: 8 - len(text)] + text)
    assert {state for _, state in status.states(plan, results)} == {"missing"}
    assert costs.benchmarks(results) == {}


@pytest.mark.parametrize("text", ["", '{"value": 1', "no JSON"])
def test_a_cell_with_a_metric_file_that_was_cut_off_is_not_done(tmp_path, monkeypatch, text):
    """The next start evaluates it again."""
    plan = make(tmp_path, monkeypatch)
    results, (run, scheme) = Path(plan.config["results"]), plan.cells[0]
    for metric in plan.config["metrics"]:
        touch(results / run.path / "eval" / scheme / f"{metric}.json")
    assert status.states(plan, results)[0][1] == "done"
    touch(results / run.path / "eval" / scheme / f"{metric}.json", text)
    assert status.states(plan, results)[0][1] == "missing"


def test_the_table_counts_every_cell_once_per_axis(tmp_path, monkeypatch, capsys):
    plan = make(tmp_path, monkeypatch)
    assert status.main(["--config", "sweep.yaml"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for axis in status.AXES:
        assert sum(int(row[2]) for row in rows if row and row[0] == axis) == len(plan.cells)


def test_ten_thousand_cells_take_seconds(tmp_path, monkeypatch):
    block = {"corpus": "people", "method": ["ga", "npo"], "regularizer": ["none", "gdr", "klr"]}
    block |= {"lr": [f"{i}e-6" for i in range(1, 10)] + [f"{i}e-5" for i in range(1, 10)], "seed": list(range(47))}
    plan = make(tmp_path, monkeypatch, sweep=[block])
    assert len(plan.cells) >= 10_000
    start = time.perf_counter()
    status.states(plan, Path(plan.config["results"]))
    assert time.perf_counter() - start < 20


def test_plan_counts_jobs_and_states_where_hours_come_from(tmp_path, monkeypatch, capsys):
    plan = make(tmp_path, monkeypatch)
    touch(Path(plan.config["results"]) / "benchmarks/people/ga_gdr/x/seed0/unlearn.tsv", "s\th:m:s\n3600.0\t1:00:00\n")
    assert costs.main(["--config", "sweep.yaml"]) == 0
    rows = {tuple(line.split()[:2]): line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("people")}
    assert rows["people", "unlearn"][2:5] == ["4", "1.000", "4.00"] and "recorded" in rows["people", "unlearn"]
    assert rows["people", "evaluate"][2] == "6" and rows["people", "evaluate"][-1] == "assumed"


def test_hours_of_another_corpus_are_scaled_by_the_size_of_the_model(tmp_path, monkeypatch):
    corpora = MICRO["corpora"] | {"larger": copy.deepcopy(MICRO["corpora"]["people"])}
    corpora["larger"]["model"]["layers"] *= 3
    plan = make(tmp_path, monkeypatch, corpora=corpora)
    sizes = {name: memory.billions(entry["model"]) for name, entry in plan.config["corpora"].items()}
    measured = {("people", "unlearn"): [3600, 7200], ("gone", "unlearn"): [1e9], ("gone", "base"): [1e9]}
    each, source = costs.hours("larger", "unlearn", plan, measured)
    assert sizes["larger"] > 1.2 * sizes["people"] and source == "scaled from people"
    assert each == pytest.approx(1.5 * sizes["larger"] / sizes["people"])
    assert costs.hours("people", "unlearn", plan, measured) == (1.5, "mean of 2 recorded")
    assert costs.hours("larger", "base", plan, measured)[1] == "assumed"


@pytest.mark.parametrize("weights, bytes_per_weight", [("bf16", 2 + 2 + 2), ("fp32", 4 + 4 + 4)])
def test_disk_holds_two_states_of_a_training_while_one_is_written(weights, bytes_per_weight):
    """A published target or retrain model is copied: it has none."""
    config = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())
    config["unlearning"]["weights"] = weights
    assert costs.disk(grid.plan(configuration.resolve(config)))[1] == pytest.approx(2 * bytes_per_weight * 6.7e9)


def test_quantized_models_that_are_kept_take_disk(tmp_path, monkeypatch, capsys):
    kept = {"gptq3": {"kind": "gptq", "bits": 3, "group": 32}, "gguf": {"kind": "gguf", "type": "q5_k_m"}}
    plan = make(tmp_path, monkeypatch, schemes=MICRO["schemes"] | kept)
    weights = 1e9 * memory.billions(plan.config["corpora"]["people"]["model"])
    models = len(plan.evaluated())
    assert costs.quantized(plan) == pytest.approx(models * weights * (4 + 6) / 8)
    assert costs.quantized(make(tmp_path, monkeypatch)) == 0


def test_files_are_laid_over_one_another(tmp_path, monkeypatch):
    make(tmp_path, monkeypatch)
    more = {"results": "elsewhere", "schemes": {"rtn_int3": {"kind": "rtn", "bits": 3}}, "sweep": MICRO["sweep"][:1]}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(more))
    plan = sweep.read("sweep.yaml", "more.yaml")
    assert list(plan.config["schemes"]) == [*MICRO["schemes"], "rtn_int3"] and plan.config["results"] == "elsewhere"
    assert plan.config["metrics"] == sweep.read("sweep.yaml").config["metrics"]


def test_a_sweep_json_is_about_the_folder_it_lies_in(tmp_path, monkeypatch, capsys):
    """It names no folder: a status from it must not count what another sweep has done."""
    plan = make(tmp_path, monkeypatch)
    text = {key: plan.config[key] for key in ("corpora", "schemes", "metrics", "unlearning", "sweep", "evaluation")}
    touch(tmp_path / "results/other/sweep.json", json.dumps(text))
    run = plan.evaluated()[2].path
    touch(tmp_path / "results/other" / run / "outcome.json", json.dumps({"status": "diverged"}))
    assert status.main(["--config", "results/other/sweep.json"]) == 0
    assert "in results/other" in (said := capsys.readouterr().out) and said.splitlines()[1].split()[-2:] == ["2", "10"]


@pytest.mark.parametrize("program", [status, costs])
def test_a_wrong_configuration_is_one_line(tmp_path, monkeypatch, capsys, program):
    make(tmp_path, monkeypatch)
    for text in ("corpora: {}", "- corpora"):
        (tmp_path / "sweep.yaml").write_text(text)
        assert program.main(["--config", "sweep.yaml"]) == 2
    assert program.main(["--config", "nowhere.yaml"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and "schemes: missing" in errors[0] and "a mapping" in errors[1] and "nowhere.yaml" in errors[2]


def test_what_a_dry_run_refuses_the_plan_refuses_and_the_status_does_not(tmp_path, monkeypatch, capsys):
    """What was computed on one machine is looked at on another, which lacks a folder, say."""
    odd = {"kind": "rtn", "bits": 3, "granularity": "group", "group": 7}
    for changes, words in (
        ({"schemes": MICRO["schemes"] | {"rtn_int3": odd}}, "schemes.rtn_int3.group: 7 "),
        ({"results": "sweep.yaml/results"}, "results: 'sweep.yaml/results' can't be made in "),
    ):
        make(tmp_path, monkeypatch, **changes)
        assert costs.main(["--config", "sweep.yaml"]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: {words}") and captured.err.count("\n") == 1 and not captured.out
        assert status.main(["--config", "sweep.yaml"]) == 0 and capsys.readouterr().out


def test_the_plan_names_environments_that_are_to_be_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNLEARNING_ENVS", str(tmp_path / "none"))
    for scheme, words in (({"kind": "rtn"}, []), ({"kind": "gptq", "group": 32}, ["environment: 'gptq' is missing; make it"])):
        make(tmp_path, monkeypatch, schemes={"full": {"kind": "full"}, "int4": scheme})
        assert costs.main(["--config", "sweep.yaml"]) == 0
        assert [line[:39] for line in capsys.readouterr().out.splitlines() if "environment" in line] == words


def test_a_sweep_json_of_an_earlier_version_gets_the_keys_that_came_later(tmp_path):
    config = configuration.resolve(json.loads(json.dumps(MICRO)))
    for key in ("engine", "stop"):
        del config["evaluation"][key]
    (tmp_path / "sweep.json").write_text(json.dumps(config))
    found = sweep.resolved(tmp_path / "sweep.json")
    assert found["evaluation"] | {"engine": "transformers", "stop": "none"} == found["evaluation"]


@pytest.mark.parametrize("content", ["[]", "5"])
def test_a_sweep_json_that_is_no_object_is_one_clear_line(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ValueError, match=r"^--sweep: .*sweep.json' holds .*; allowed: a JSON object"):
        sweep.resolved(tmp_path / "sweep.json")
