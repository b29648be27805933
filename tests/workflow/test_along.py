"""Checkpoints along a training through the whole workflow: evaluated, selected, drawn, and removed when they were asked to be."""

import copy
import json
import shutil

import pandas as pd

from tests.workflow.conftest import Sweep

CELL = "people/ga_none/lr1e-3_bf16_st4_batch2_at1-3/seed0"


def test_checkpoints_are_evaluated_selected_and_may_go(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    sweep = Sweep(folder, copy.deepcopy(finished.config))
    sweep.config["sweep"].append({"corpus": "people", "method": "ga", "checkpoint_at": [1, 3]})
    sweep.config |= {"keep_checkpoints": "last"}
    sweep.config["evaluation"] |= {"stop": "retrain"}
    jobs = {rule: count for rule, count in sweep.jobs("scores").items() if rule.startswith(("unlearn", "evaluate"))}
    assert jobs == {"unlearn_at1-3": 1, "evaluate_full": 3}
    sweep.run("scores")

    run = sweep.results / CELL
    assert (run / "checkpoint").exists() and not (run / "step1/checkpoint").exists() and not (run / "step3/checkpoint").exists()
    scores = pd.read_csv(sweep.results / "scores.csv", dtype=str, keep_default_na=False)
    mine = scores[(scores.method == "ga") & (scores.setting.str.endswith("at1-3")) & (scores.scheme == "full")]
    mine = mine[mine.metric == "verbmem_f"].set_index("checkpoint")
    assert dict(mine.step)["step1"] == "1" and dict(mine.step)["step3"] == "3" and dict(mine.step)[""] == "4"
    retrain = scores[(scores.method == "retrain") & (scores.scheme == "full") & (scores.metric == "verbmem_f")]
    below = [name for name in ("step1", "step3", "") if float(mine["value"][name]) <= float(retrain["value"].iloc[0])]
    picked = mine.loc["stop: retrain"]
    if below:
        assert picked.step == mine.step[below[0]] and picked["value"] == mine["value"][below[0]]
    else:
        assert picked["value"] == "" and "no checkpoint's verbmem_f" in picked.reason

    # The same training without checkpoints is another run with the same weights at the end.
    plain = json.loads((sweep.results / CELL.replace("_at1-3", "") / "outcome.json").read_text())
    assert json.loads((run / "outcome.json").read_text())["weights"] == plain["weights"]
    assert sweep.jobs("scores") == {}
