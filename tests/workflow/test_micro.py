"""The micro sweep end to end: the exact set of outputs, honest tables, and a diverged run that stops nothing."""

import copy
import json
import re

import pandas as pd

from scripts import paper_tables
from scripts.core import isolation, registry
from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from tests.workflow.conftest import MICRO, Sweep

CHECKPOINT = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def expected(config: dict) -> set[str]:
    """Every file that a finished sweep has, from its plan."""
    plan = grid.plan(configuration.resolve(copy.deepcopy(config)))
    found = set(plan.schemes) | {"scores.csv", "scores.parquet", "sweep.json"}
    found |= {f"{name}.csv" for name in ("recovery", "masks", "schemes", "calibration_effect")}
    found |= {f"{name}.csv" for name in ("mechanism", "moved", "prediction", "prediction_fit", "costs")}
    for run in plan.runs.values():
        found.add(f"{run.path}/spec.json")
        if run.stage != "corpus":
            found |= {f"{run.path}/{name}" for name in ("outcome.json", "run.json")}
            weights = "delta.safetensors" if run.stage == "unlearn" else "model.safetensors"
            found |= {f"{run.path}/checkpoint/{name}" for name in (weights, *CHECKPOINT)}
    found |= {f"{run.path}/mechanism.json" for run in plan.evaluated() if run.stage == "unlearn"}
    found |= {f"{run.path}/eval/{scheme}/{metric}.json" for run, scheme in plan.cells for metric in config["metrics"]}
    found |= {f"figures/{name}.{kind}" for name in registry.names("figures") for kind in ("svg", "pdf")}
    found |= {"report/results.html", "report/findings.txt"}
    found |= {f"tables/{name}.{kind}" for name in (*paper_tables.SOURCES, "retained") for kind in ("csv", "md", "tex")}
    return found


def test_exactly_these_files(finished):
    files = finished.files()
    corpus = {name for name in files if name.startswith("people/corpus/")}
    assert {"people/corpus/manifest.json", "people/corpus/data/raw/forget.json"} <= corpus
    assert files - corpus == expected(finished.config) - {"people/corpus/spec.json"}


def test_scores_are_tidy_and_complete(finished):
    scores = pd.read_parquet(finished.results / "scores.parquet")
    keys = ["corpus", "method", "regularizer", "lr", "weights", "seed", "scheme", "metric"]
    assert not scores.duplicated(keys).any()
    full = scores[scores["metric"].isin(["verbmem_f", "knowmem_f", "knowmem_r"])]
    assert len(full) == 6 * 2 * 3
    assert full["value"].notna().all() and full["value"].between(0, 100).all()
    pd.testing.assert_frame_equal(
        scores[keys].astype(str), pd.read_csv(finished.results / "scores.csv", dtype=str, keep_default_na=False)[keys]
    )


def test_outcomes_name_the_weights(finished):
    outcome = json.loads((finished.results / "people/target/outcome.json").read_text())
    assert outcome["status"] == "done" and len(outcome["weights"]) >= 16
    assert outcome["weights"] != json.loads((finished.results / "people/retrain/outcome.json").read_text())["weights"]


def test_a_diverged_run_is_recorded_and_stops_nothing(tmp_path):
    """An update of 45 times the weights per step overflows: status and step are recorded, scores are missing, the mask is there."""
    config = copy.deepcopy(MICRO)
    shared = {"corpus": "people", "method": "ga", "regularizer": "none", "weights": "fp32", "max_steps": 60}
    config["sweep"] = [shared | {"lr": "1e-4"}, shared | {"lr": "0.9", "weight_decay": 50.0, "saliency": "module", "percentile": 0}]
    sweep = Sweep(tmp_path, config)
    sweep.run("scores", f"{config['results']}/masks.csv")
    scores = pd.read_csv(sweep.results / "scores.csv")
    scores = scores[scores["metric"] != "privleak"]  # of three texts, its AUC may be 0 in the retrain run
    wild = scores[(scores["method"] == "ga") & (scores["lr"] == 0.9)]
    calm = scores[(scores["method"] == "ga") & (scores["lr"] != 0.9)]
    outcome = json.loads(next(sweep.results.glob("people/ga_none/lr9e-1*/seed0/outcome.json")).read_text())
    assert outcome["status"] == "diverged" and outcome["step"] >= 1
    masks = pd.read_csv(sweep.results / "masks.csv")
    assert set(masks["run"]) == set(wild["run"]) and (masks["trained"] == 1).all() and set(masks["layer"].dropna()) == {0, 1}
    assert set(wild["status"]) == {"diverged"} and wild["value"].isna().all()
    assert set(calm["status"]) == {"ok"} and calm["value"].notna().all()


def test_without_gpus_no_kind_of_gpu_is_asked_for(tmp_path):
    """A kind alone reaches Slurm as none of that kind, which a cluster without GPUs refuses."""
    config = copy.deepcopy(MICRO)
    config["resources"] |= {"gpus": 0, "gpu_model": "h100"}
    plain = Sweep(tmp_path, config).run("--dry-run").stdout
    assert plain.count("gpu_model=") > 10 and "h100" not in plain
    config["resources"]["gpus"] = 1
    assert "gpu_model=h100" in Sweep(tmp_path, config).run("--dry-run").stdout


def test_what_is_copied_or_quantized_without_a_gpu_asks_for_none(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARNING_ENVS", str(tmp_path))
    (tmp_path / "gguf" / "bin").mkdir(parents=True)
    (tmp_path / "gguf" / "bin" / "python").touch()
    (tmp_path / "gguf" / isolation.MARK).write_text(isolation.digest("gguf"))
    config = copy.deepcopy(MICRO)
    config["corpora"]["people"]["model"] = {"kind": "pretrained", "target": "lab/t", "retrain": "lab/r", "billions": 6.7}
    config["schemes"] |= {"awq": {"kind": "awq", "group": 16}, "gguf": {"kind": "gguf"}}
    config["resources"] |= {"gpus": 4, "nodes": 2, "gpu_model": "h100"}
    config["unlearning"]["batch"] = 8
    shown = Sweep(tmp_path, config).run("--dry-run", env={"HF_HUB_OFFLINE": "0"}).stdout  # nothing is asked of the hub
    asked = dict(re.findall(r"^rule (\S+):\n(?:    .*\n)*?    resources: (.*)$", shown, re.M))
    resources = {rule: dict(one.split("=", 1) for one in text.split(", ")) for rule, text in asked.items()}
    gpus = {rule: (found.get("gpu"), found.get("gpu_model")) for rule, found in resources.items()}
    assert gpus["reference"] == gpus["quantize_gguf"] == ("0", "")
    assert (gpus["quantize_awq"], gpus["unlearn"]) == (("1", "h100"), ("8", "h100"))
    threads = dict(re.findall(r"^rule (\S+):\n(?:    .*\n)*?    threads: (.*)$", shown, re.M))
    assert threads["unlearn"] == "2" and "quantize_awq" not in threads  # of 4, a core for each GPU, the 2 that there are; of 1
    several = [(resources[rule]["nodes"], resources[rule]["mpi"]) for rule in ("reference", "unlearn")]
    assert several == [("1", ""), ("2", "srun")] and int(resources["reference"]["mem_mb"]) < 11000
