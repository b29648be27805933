"""The worked examples of docs/extending.md, dropped into a copy of the project and run through the workflow.

The copy takes the micro sweep's corpus as a local MUSE folder and its models as local folders, so this is also the path
that published models take.
"""

import copy
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.workflow.conftest import MICRO, ROOT, Sweep


def examples() -> dict[str, str]:
    """{path: code} of the files in the page."""
    page = (ROOT / "docs/extending.md").read_text()
    return dict(re.findall(r"^`(scripts/\S+\.py)`:\n\n```python\n(.*?)^```$", page, re.M | re.S))


def rows(table: Path) -> list[dict]:
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def test_a_method_a_scheme_and_a_metric_are_one_file_each(finished, tmp_path):
    copy = tmp_path / "project"
    skipped = shutil.ignore_patterns("__pycache__", "results")
    for name in ("scripts", "workflow", "envs"):
        shutil.copytree(ROOT / name, copy / name, ignore=skipped)
    shutil.copy(ROOT / "Snakefile", copy)
    assert set(examples()) == {"scripts/methods/flatten.py", "scripts/quantizers/sign.py", "scripts/metrics/exact.py"}
    for path, code in examples().items():
        assert not (ROOT / path).exists()
        (copy / path).write_text(code)

    people = finished.results / "people"
    model = {"kind": "pretrained", "billions": 0.001}
    model |= {name: str(people / name / "checkpoint") for name in ("target", "retrain")}
    config = {
        "results": "results/extended",
        "corpora": {"people": {"kind": "muse", "source": str(people / "corpus/data"), "max_length": 64, "model": model}},
        "schemes": {"full": {"kind": "full"}, "sign": {"kind": "sign"}},
        "metrics": {"exact_f": {"kind": "exact", "split": "forget"}},
        "sweep": [{"corpus": "people", "method": "flatten", "regularizer": "gdr", "strength": 0.5, "lr": "1e-3", "max_steps": 3}],
        "evaluation": {"schemes_per_job": 2},
        "resources": {"gpus": 0, "threads": 1},
    }
    (copy / "sweep.yaml").write_text(yaml.safe_dump(config))
    snakemake = Path(sys.executable).parent / "snakemake"
    command = [str(snakemake), "--configfile", "sweep.yaml", "--cores", "2", "scores"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]

    run = next((copy / "results/extended/people/flatten_gdr").glob("lr1e-3_bf16_st3_a1_strength0.5/seed0"))
    history = json.loads((run / "run.json").read_text())["history"]
    assert len(history) == 3 and history[0]["forget"] > 0
    full, sign = (json.loads((run / f"eval/{scheme}/exact_f.json").read_text()) for scheme in ("full", "sign"))
    assert full["status"] == sign["status"] == "ok" and full["n"] == sign["n"] == 9
    scores = {row["scheme"]: row for row in rows(copy / "results/extended/scores.csv") if row["method"] == "flatten"}
    assert scores["sign"]["low"] and scores["sign"]["high"], scores["sign"]["reason"]
    assert [row["scheme"] for row in rows(copy / "results/extended/recovery.csv") if row["metric"] == "exact_f"] == ["full", "sign"]
    rescored = [sys.executable, "-m", "scripts.rescore", str(run / "eval/full/exact_f.json")]
    assert subprocess.run(rescored, cwd=copy, capture_output=True).returncode == 0
    assert 1 < sign["bits_per_weight"] < full["bits_per_weight"] == 16


def test_a_scheme_whose_environment_is_missing_is_refused_in_the_dry_run(tmp_path):
    """Before any job, with the command that makes the environment."""
    config = copy.deepcopy(MICRO)
    config["schemes"] = {"full": {"kind": "full"}, "gptq": {"kind": "gptq", "group": 16}}
    done = Sweep(tmp_path, config).run("--dry-run", check=False, env={"UNLEARNING_ENVS": str(tmp_path)})
    assert done.returncode
    said = done.stdout + done.stderr
    assert "environment: 'gptq' is missing; make it with `python -m scripts.environments --make gptq`" in said
