"""The grid: products, unions, pruning as data, paths that say the experiment."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.core.planning.checking import ConfigError

MICRO = yaml.safe_load((Path(__file__).parents[1] / "workflow/micro.yaml").read_text())


def paths(*blocks, **unlearning) -> list[str]:
    """Paths of the unlearning runs of these blocks."""
    config = copy.deepcopy(MICRO)
    config["sweep"] = list(blocks)
    config["unlearning"] = {"batch": 4} | unlearning
    return [run.path for run in grid.plan(configuration.resolve(config)).runs.values() if run.stage == "unlearn"]


def block(**keys) -> dict:
    return {"corpus": "people", "method": "npo", "regularizer": "gdr", "lr": "1e-5"} | keys


def test_a_block_is_a_product():
    found = paths(block(method=["ga", "npo"], lr=["1e-5", "2e-5"], seed=[0, 1]))
    assert len(found) == 8 and len(set(found)) == 8
    assert "people/npo_gdr/lr2e-5_bf16_ep5_a1/seed1" in found


def test_blocks_are_united_and_a_cell_in_two_of_them_runs_once():
    assert len(paths(block(), block(lr=["1e-5", "3e-5"]), block(lr="0.00001"))) == 2


def test_alpha_is_dropped_where_there_is_no_regularizer():
    found = paths(block(regularizer=["none", "gdr"], alpha=[1.0, 2.0]))
    assert sorted(found) == [
        "people/npo_gdr/lr1e-5_bf16_ep5_a1/seed0",
        "people/npo_gdr/lr1e-5_bf16_ep5_a2/seed0",
        "people/npo_none/lr1e-5_bf16_ep5/seed0",
    ]


def test_beta_is_dropped_where_the_method_has_none():
    found = paths(block(method=["ga", "npo"], beta=[0.1, 0.5]))
    assert sorted(p.split("/")[1] + "/" + p.split("/")[2] for p in found) == [
        "ga_gdr/lr1e-5_bf16_ep5_a1",
        "npo_gdr/lr1e-5_bf16_ep5_a1",
        "npo_gdr/lr1e-5_bf16_ep5_a1_beta0.5",
    ]


def test_what_differs_from_a_default_is_in_the_path():
    assert paths(block(weights="fp32", clip=2.5, max_steps=7)) == ["people/npo_gdr/lr1e-5_fp32_st7_a1_clip2.5/seed0"]
    assert paths(block(), clip=2.5) == ["people/npo_gdr/lr1e-5_bf16_ep5_a1_clip2.5/seed0"]
    # A method's parameters by name, whatever their order in its file.
    found = paths(block(method="rmu", steering=10.0, direction=1, attention="eager"))
    assert found == ["people/rmu_gdr/lr1e-5_bf16_ep5_a1_direction1_steering10_eager/seed0"]


def test_steps_replace_epochs():
    """With max_steps the epochs play no part, so two of them are one run."""
    assert len(paths(block(max_steps=7, epochs=[1, 2]))) == 1


def test_moments_follow_the_weights_unless_named():
    assert paths(block(moments=["auto", "bf16"])) == ["people/npo_gdr/lr1e-5_bf16_ep5_a1/seed0"]
    assert paths(block(moments="fp32")) == ["people/npo_gdr/lr1e-5_bf16_ep5_a1_momentsfp32/seed0"]
    assert paths(block(weights="fp32", moments="fp32")) == ["people/npo_gdr/lr1e-5_fp32_ep5_a1/seed0"]


def test_a_path_tells_two_different_specs_apart():
    """No two runs of a wide grid share a path while their specs differ."""
    config = copy.deepcopy(MICRO)
    wide = block(
        method=["ga", "npo"],
        regularizer=["none", "gdr", "klr"],
        lr=["1e-5", "1e-4"],
        weights=["bf16", "fp32"],
        moments=["bf16", "fp32"],
        epochs=[1, 10],
        batch=[1, 11],
        seed=[0, 1],
    )
    config["sweep"] = [wide]
    config["unlearning"] = {}
    plan = grid.plan(configuration.resolve(config))
    runs = [run for run in plan.runs.values() if run.stage == "unlearn"]
    assert len(runs) == 2 * 3 * 2 * 2 * 2 * 2 * 2 * 2
    assert all(run.spec["run"] == run.path for run in runs)


def test_values_that_a_path_does_not_tell_apart_are_an_error():
    with pytest.raises(
        ConfigError, match="two combinations with different regularizer have the same folder, people/npo_gdr/.*_a1/"
    ):
        paths(block(alpha=[1.0, 1.0000001]))


def test_growing_the_grid_leaves_other_specs_alone():
    config = copy.deepcopy(MICRO)
    before = grid.plan(configuration.resolve(config)).texts()
    config["sweep"][0]["lr"] = ["1e-3", "2e-3"]
    config["sweep"][0]["method"] = ["npo", "ga"]
    after = grid.plan(configuration.resolve(config)).texts()
    assert len(after) == len(before) + 4
    assert {path: after[path] for path in before} == before


def test_a_base_model_does_not_depend_on_how_it_is_fine_tuned():
    config = copy.deepcopy(MICRO)
    before = grid.plan(configuration.resolve(config)).runs
    config["corpora"]["people"]["model"]["finetune"]["steps"] = 99
    after = grid.plan(configuration.resolve(config)).runs
    assert after["people/base"] == before["people/base"]
    assert after["people/target"] != before["people/target"]


def test_rows_name_every_cell_once():
    plan = grid.plan(configuration.resolve(copy.deepcopy(MICRO)))
    rows = plan.rows()
    assert len(rows) == len(plan.cells) * 4
    assert len({(r["run"], r["scheme"], r["metric"]) for r in rows}) == len(rows)
    target = next(r for r in rows if r["method"] == "target")
    assert (target["regularizer"], target["lr"], target["weights"]) == ("none", "", "")
    assert (target["moments"], target["setting"], target["axes"]) == ("", "", {})


def test_rows_say_what_a_run_was():
    config = copy.deepcopy(MICRO)
    config["sweep"] = [block(weights="fp32", beta=0.5, alpha=2.0, max_steps=7, checkpoint_at=[3], seed=4)]
    rows = [row for row in grid.plan(configuration.resolve(config)).rows() if row["method"] == "npo"]
    assert {row["checkpoint"] for row in rows} == {"", "step3"}
    for row in rows:
        assert (row["corpus"], row["regularizer"], row["lr"], row["weights"], row["moments"]) == (
            "people", "gdr", "1e-5", "fp32", "fp32",
        )  # fmt: skip
        assert (row["seed"], row["setting"]) == (4, "lr1e-5_fp32_st7_a2_beta0.5_batch2_at3")
        assert row["axes"].items() >= {"beta": 0.5, "alpha": 2.0, "max_steps": 7, "hidden": 32}.items()
        assert not row["axes"].keys() & {"lr", "weights", "moments", "seed"}


def test_masked_runs_are_the_trainings_with_a_mask():
    """Checkpoints along a masked training share its mask; base models and runs without one have none."""
    plan = plan_of(block(saliency=["none", "module"], max_steps=4, checkpoint_at=[2]))
    assert [run.path.split("/")[2] for run in plan.masked()] == ["lr1e-5_bf16_st4_a1_batch2_sure-module90_at2"]


def test_a_published_model_matters_to_its_own_run_and_the_target_to_those_that_start_from_it():
    def specs(**changes):
        config = copy.deepcopy(MICRO)
        model = {"kind": "pretrained", "target": "a/b", "retrain": "a/c"} | changes
        config["corpora"]["people"] = {"kind": "muse", "source": "a/d", "max_length": 64, "model": model}
        config["sweep"] = [block()]
        return grid.plan(configuration.resolve(config)).texts()

    def changed(**changes):
        before, after = specs(), specs(**changes)
        return {path.split("/")[1] for path in before if before[path] != after[path]}

    assert changed(retrain="a/e") == {"retrain"}
    assert changed(target="a/e") == {"target", "npo_gdr"}


def plan_of(*blocks, reinforce=True, **schemes):
    """The plan of the micro sweep with these blocks, a recipe for the reinforced model, and more schemes."""
    config = copy.deepcopy(MICRO)
    config["sweep"], config["schemes"] = list(blocks), config["schemes"] | schemes
    if reinforce:
        config["corpora"]["people"]["model"]["reinforce"] = {"steps": 4, "lr": "1e-3"}
    return grid.plan(configuration.resolve(config))


def test_specs_do_not_know_of_what_they_do_not_use():
    """Keys that came later stand in a spec only where they are used: cached runs of older configurations stay valid."""
    runs = plan_of(block(), block(saliency="module"), block(parameters="lora"), block(saliency="none", parameters="full")).runs
    plain, sure, lora = (run.spec["training"] for run in runs.values() if run.stage == "unlearn")
    assert not {"saliency", "percentile", "sure_double", "parameters", "rank", "lora_alpha", "lora_targets"} & plain.keys()
    assert sure == plain | {"saliency": "module", "percentile": 90.0, "sure_double": False}
    assert lora == plain | {"parameters": "lora", "rank": 8, "lora_alpha": 16.0, "lora_targets": "all"}
    assert (repr(sure["percentile"]), repr(lora["lora_alpha"])) == ("90.0", "16.0")  # spelled as in cached runs
    with_recipe, without = (plan_of(block(), reinforce=flag).texts() for flag in (True, False))
    assert with_recipe == without


def test_the_resolved_defaults_do_not_grow():
    assert configuration.resolve(copy.deepcopy(MICRO))["unlearning"].keys().isdisjoint(("saliency", "parameters", "percentile"))


def test_saliency_and_lora_in_paths():
    found = paths(block(saliency=["none", "module"], percentile=[90, 95.0]), block(saliency="row-step", sure_double=True))
    assert [path.split("/")[2] for path in found] == [
        "lr1e-5_bf16_ep5_a1",
        "lr1e-5_bf16_ep5_a1_sure-module90",
        "lr1e-5_bf16_ep5_a1_sure-module95",
        "lr1e-5_bf16_ep5_a1_sure-row-step90-double",
    ]
    found = paths(block(parameters="lora", rank=[4, 8]), block(parameters="lora", lora_targets="q_proj+v_proj"))
    assert [path.split("_a1_")[1].split("/")[0] for path in found] == ["lora4-16", "lora8-16", "lora8-16-q_proj+v_proj"]
    assert paths(block(percentile=90, saliency="module"), block(percentile=90.0, saliency="module")) == paths(
        block(saliency="module")
    )


def test_a_percentile_of_the_defaults_serves_the_blocks_that_use_it():
    assert paths(block(saliency=["none", "module"]), percentile=99) == [
        "people/npo_gdr/lr1e-5_bf16_ep5_a1/seed0",
        "people/npo_gdr/lr1e-5_bf16_ep5_a1_sure-module99/seed0",
    ]


def test_stochastic_rounding_keeps_moments_in_bf16_unless_named():
    plan = plan_of(block(weights="bf16_stochastic"), block(weights="bf16_stochastic", moments="fp32"))
    found = {run.path.split("/")[2]: run.spec["training"]["moments"] for run in plan.runs.values() if run.stage == "unlearn"}
    assert found == {"lr1e-5_bf16_stochastic_st4_a1_batch2": "bf16", "lr1e-5_bf16_stochastic_st4_a1_momentsfp32_batch2": "fp32"}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"method": "whp", "regularizer": "none"}, ["corpora.people.model.reinforce", "missing", "whp"]),
        ({"method": "task_vector", "regularizer": "none"}, ["corpora.people.model.reinforce", "task_vector", "recipe"]),
    ],
)
def test_a_reinforced_model_without_its_settings(changes, words):
    cell = block(**changes)
    del cell["lr"]
    with pytest.raises(ConfigError) as caught:
        plan_of(cell, reinforce=False)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"saliency": "module", "percentile": 101}, ["sweep[0].percentile", "101", "≤ 100"]),
        ({"saliency": "module", "percentile": -1}, ["sweep[0].percentile", "-1", "≥ 0"]),
        ({"percentile": 90}, ["sweep[0].percentile", "applies to no combination"]),
        ({"rank": 4}, ["sweep[0].rank", "applies to no combination"]),
        ({"saliency": "rows"}, ["sweep[0].saliency", "'rows'", "row-step"]),
        ({"parameters": "lora", "rank": 0}, ["sweep[0].rank", "0", "≥ 1"]),
        ({"parameters": "lora", "lora_targets": "q proj"}, ["sweep[0].lora_targets", "q proj"]),
        ({"method": "task_vector", "regularizer": "none", "lr": "1e-5"}, ["sweep[0].lr", "applies to no combination"]),
    ],
)
def test_bad_settings_of_masks_and_lora(changes, words):
    with pytest.raises(ConfigError) as caught:
        plan_of(block(**changes))
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words)


def test_schemes_share_an_evaluation_only_where_their_files_are_made_in_one_environment():
    config = copy.deepcopy(MICRO)
    files = {f"gptq{bits}": {"kind": "gptq", "bits": bits, "group": 16} for bits in (3, 4)}
    config["schemes"] |= {"awq": {"kind": "awq", "group": 16}, **files, "int3": {"kind": "rtn", "bits": 3}}
    assert grid.evaluations(configuration.resolve(config)) == [
        ["full", "rtn_int4"],
        ["int3"],
        ["awq"],
        ["gptq3", "gptq4"],
    ]


@pytest.mark.parametrize(
    "part, name, key, value, changed",
    [
        ("metrics", "knowmem_f", "shots", 1, {"evaluations/full", "evaluations/rtn_int4"}),
        ("corpora", "people", "asked_people", 2, None),
        ("schemes", "rtn_int4", "bits", 3, {"evaluations/rtn_int4", "schemes/rtn_int4"}),
        ("evaluation", None, "batch_tokens", 4096, {"evaluations/full", "evaluations/rtn_int4"}),
    ],
)
def test_what_the_files_of_a_sweep_depend_on(part, name, key, value, changed):
    """Another metric or batch quantizes nothing anew, another scheme touches its own files, another corpus all but the schemes."""
    config = copy.deepcopy(MICRO)
    before = grid.plan(configuration.resolve(copy.deepcopy(config))).texts()
    (config[part] if name is None else config[part][name])[key] = value
    after = grid.plan(configuration.resolve(config)).texts()
    if changed is None:
        changed = {path.removesuffix(".json") for path in before if "/schemes/" not in path}
        assert "people/corpus/spec" in changed
    else:
        changed = {f"people/{path}" for path in changed}
    assert {path.removesuffix(".json") for path in before if before[path] != after[path]} == changed
    content = json.loads(after["people/evaluations/full.json"])
    assert content.keys() == {"corpus", "scheme", "metrics", "batch_tokens"}  # as docs/architecture.md has them
    assert content["scheme"] == {"name": "full", "kind": "full"} and content["corpus"]["name"] == "people"
