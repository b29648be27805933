"""The evaluation program where something fails: a diverged run, a broken model, a metric, a scheme, bad input, no hardware."""

import shutil

import numpy as np
import pytest

from scripts import evaluate, rescore
from scripts.core import devices
from scripts.core.storage import write_json
from tests.unit.evaluated import METRICS, change, changed, read, run, states


def test_diverged_run_has_no_value(copy, capsys):
    write_json(copy / "run" / "outcome.json", {"status": "diverged", "weights": None, "step": 17})
    shutil.rmtree(copy / "run" / "checkpoint")
    assert run(copy, "full") == 0
    for metric in METRICS:
        content = read(copy, "full", metric)
        assert (content["status"], content["value"], content["n"], content["step"]) == ("diverged", None, 0, 17)
        assert content["reason"] == "diverged at step 17" and content["samples"] == []
    assert rescore.main([str(copy / "run/eval/full/privleak.json")]) == 0
    before = states(copy)
    assert run(copy, "full") == 0 and states(copy) == before


def test_broken_model_has_no_value(copy):
    from safetensors.torch import load_file, save_file

    path = copy / "run" / "checkpoint" / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"][5] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    change(copy, "run/outcome.json", weights="nan")
    assert run(copy, "full") == 0
    for metric in METRICS:
        content = read(copy, "full", metric)
        assert content["status"] == "not finite" and content["value"] is None and "not finite" in content["reason"]
        assert content["bits_per_weight"] == 16


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"scheme": {"name": "x", "kind": "rtm"}}, "unknown name 'rtm' in quantizers"),
        ({"scheme": None}, "has no 'scheme'; allowed: a file of"),
        ({"metrics": {"x": {"kind": "verbmen"}}}, "did you mean 'verbmem'"),
        ({"metrics": {"x": {"kind": "verbmem", "tokens": 3}}}, "'tokens' is not a setting of verbmem; known: new_tokens"),
        ({"metrics": {"x": {"kind": "verbmem", "new_tokens": 600}}}, "the model's 512 positions minus 600 new tokens"),
    ],
)
def test_bad_input_is_one_line(copy, capsys, entries, said):
    change(copy, "full.json", **entries)
    capsys.readouterr()
    assert run(copy, "full") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0]


WRONG = {
    "nothing": (None, "evaluate() gave None"),
    "no samples": ({"value": 1.0, "n": 1}, "allowed: a mapping with value, n and samples"),
    "no number": ({"value": "1", "n": 1, "samples": []}, "evaluate() gave the value '1'"),
    "a value that is not finite": ({"value": float("nan"), "n": 1, "samples": []}, "evaluate() gave the value nan"),
    "a sample that is not finite": ({"value": 1.0, "n": 1, "samples": [float("inf")]}, "what JSON can't hold"),
    "an object": ({"value": 1.0, "n": 1, "samples": [object()]}, "what JSON can't hold"),
    "a key of the file": ({"value": 1.0, "n": 1, "samples": [], "status": "ok"}, "evaluate() gave a 'status'"),
    "an error": (KeyError("prompt"), "full knowmem_r: KeyError: 'prompt'"),
}


def test_a_metric_that_fails_is_told_and_leaves_the_others(copy, capsys, monkeypatch):
    """Nor does it take what the job has computed with it: Snakemake removes the outputs of a job that failed."""
    from scripts.metrics import knowmem

    def wrong(engine, data, settings):
        if isinstance(WRONG[case][0], Exception):
            raise WRONG[case][0]
        return WRONG[case][0]

    monkeypatch.setattr(knowmem, "evaluate", wrong)
    for case in WRONG:
        shutil.rmtree(copy / "run/eval/full/.kept", ignore_errors=True)
        for path in (copy / "run/eval/full").glob("*.json"):
            path.unlink()
        capsys.readouterr()
        assert run(copy, "full", "rtn_int4") == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ") and WRONG[case][1] in last and "knowmem_r" in last
        assert {path.stem for path in (copy / "run/eval/full").glob("*.json")} == METRICS.keys() - {"knowmem_r"}
    monkeypatch.undo()
    before = states(copy)
    for path in (copy / "run/eval/full").glob("*.json"):
        path.unlink()
    assert run(copy, "full") == 0
    assert changed(before, states(copy)) == {"run/eval/full/knowmem_r.json"}
    assert not (copy / "run/eval/full/.kept").exists()


def test_a_scheme_that_fails_leaves_the_others(copy, capsys, monkeypatch):
    from scripts.quantizers import full

    def broken(*arguments):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(full, "load", broken)
    shutil.rmtree(copy / "run/eval")
    assert run(copy, "full", "rtn_int4") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: scheme full: RuntimeError: no kernel"
    assert {path.stem for path in (copy / "run/eval/rtn_int4").glob("*.json")} == METRICS.keys()


def test_a_real_number_of_numpy_is_a_value():
    assert evaluate.checked({"value": np.float32(3), "n": 1, "samples": []}, "x")["value"] == 3.0


def test_missing_parts_are_one_line(copy, capsys):
    assert run(copy, "nowhere") == 2
    assert "nowhere.json does not exist; allowed:" in capsys.readouterr().err
    line = ["--run", str(copy / "run"), "--corpus", str(copy / "corpus"), "--artifact", "x"]
    assert evaluate.main([*line, "--schemes", str(copy / "full.json"), str(copy / "rtn_int4.json")]) == 2
    assert "allowed: one scheme" in capsys.readouterr().err


def test_hardware_that_is_not_there(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.pick("full", ["cpu", "cuda"]) == "cpu"
    with pytest.raises(ValueError, match="can't run here; allowed: a machine with cuda"):
        devices.pick("gptq", ["cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.pick("full", ["cpu", "cuda"]) == "cuda"
    assert devices.pick("x", ["cpu"]) == "cpu"
