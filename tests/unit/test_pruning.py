"""What a sweep leaves out: combinations that make no sense, settings that play no part, models that a scheme can't hold."""

import copy

from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from tests.unit.test_grid import MICRO, block, paths, plan_of


def test_arithmetic_on_checkpoints_is_one_run_whatever_the_training_says():
    plan = plan_of(
        block(method=["task_vector", "whp", "npo"], regularizer=["none", "gdr"], lr=["1e-5", "1e-4"], alpha=2.0, seed=[0, 1])
    )
    found = [run for run in plan.runs.values() if run.stage == "unlearn" and "npo" not in run.path]
    assert {run.path for run in found} == {"people/task_vector_none/a2/seed0", "people/whp_none/a2/seed0"}
    assert found[0].spec["training"] == {"store": "bf16"} and found[1].spec["training"] == {}
    assert [run.path for run in plan.runs.values() if run.stage == "reinforced"] == ["people/reinforced"]
    assert all(run.spec["run"] == run.path for run in plan.runs.values())
    assert "reinforce" in plan.runs["people/reinforced"].spec["model"]
    assert not any("reinforced" in run.path for run in plan.evaluated())
    assert any("takes no regularizer" in reason for reason in plan.pruned)


def test_files_of_one_model_hold_no_pair():
    cell = {"corpus": "people", "method": ["task_vector", "whp"]}
    plan = plan_of(cell, files={"kind": "gptq", "bits": 4, "group": 32})
    held = {(run.path.split("/")[1], scheme) for run, scheme in plan.cells}
    assert ("whp_none", "rtn_int4") in held and ("task_vector_none", "files") in held and ("whp_none", "files") not in held
    assert any("whp is made of two" in reason for reason in plan.pruned)


def test_sure_with_lora_is_pruned():
    plan = plan_of(block(saliency=["none", "module"], parameters=["full", "lora"]))
    assert len([run for run in plan.runs.values() if run.stage == "unlearn"]) == 3
    assert any("SURE chooses" in reason for reason in plan.pruned)


def test_how_the_reference_is_kept_counts_only_where_one_is():
    found = paths(block(regularizer=["gdr", "klr"], reference=["auto", "cached", "topk"], reference_k=[8, 16], weights="fp32"))
    name = "lr1e-5_fp32_ep5_a1"
    assert sorted(found) == [
        f"people/npo_gdr/{name}/seed0",
        f"people/npo_klr/{name}/seed0",
        f"people/npo_klr/{name}_ref-cached/seed0",
        f"people/npo_klr/{name}_ref-topk16/seed0",
        f"people/npo_klr/{name}_ref-topk8/seed0",
    ]


def test_kinds_of_reference_and_optimisers_that_make_no_sense_are_pruned():
    config = copy.deepcopy(MICRO)
    config["sweep"] = [
        block(method=["npo_published", "rmu"], reference=["cached", "topk"]),
        block(optimizer="adamw_8bit", weights=["bf16", "fp32"], compile=True),
        block(optimizer="paged_adamw", weights="fp32", saliency=["module", "row-fixed"]),
    ]
    plan = grid.plan(configuration.resolve(config))
    reasons = " ".join(plan.pruned)
    assert "raw logits" in reasons and "whole target model" in reasons and "8-bit" in reasons and len(plan.pruned) == 5
    found = [run.path.split("/")[1:3] for run in plan.runs.values() if run.stage == "unlearn"]
    assert found == [
        ["npo_published_gdr", "lr1e-5_bf16_st4_a1_batch2_ref-cached"],
        ["npo_gdr", "lr1e-5_fp32_st4_a1_batch2_compiled_adamw-8bit"],
        ["npo_gdr", "lr1e-5_fp32_st4_a1_batch2_sure-module90_paged-adamw"],
    ]


def test_the_retrain_model_at_full_precision_alone_where_asked():
    config = copy.deepcopy(MICRO)
    config["evaluation"] = {"retrain": "full"}
    plan = grid.plan(configuration.resolve(config))
    schemes = {run.path: [scheme for other, scheme in plan.cells if other is run] for run in plan.evaluated()}
    assert schemes.pop("people/retrain") == ["full"]
    assert set(map(tuple, schemes.values())) == {("full", "rtn_int4")}
    assert plan.pruned == ["people/retrain under rtn_int4: evaluation.retrain is full"]
