"""The evaluation program on a tiny run: files, fingerprints, divergence, broken models, bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts import evaluate, rescore
from scripts.core import devices
from scripts.core.storage import write_json

ROOT = Path(__file__).parents[2]
METRICS = {
    "verbmem_f": {"kind": "verbmem", "split": "forget", "new_tokens": 6},
    "knowmem_r": {"kind": "knowmem", "split": "retain", "new_tokens": 4, "shots": 2},
    "privleak": {"kind": "privleak"},
}
SCHEMES = {"full": {"kind": "full"}, "rtn_int4": {"kind": "rtn", "bits": 4, "granularity": "tensor"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with corpus/, run/ and a scheme file per scheme."""
    from scripts.core.registry import parameters
    from scripts.core.weights.models import build_model, build_tokenizer, save_checkpoint
    from scripts.corpora import synthetic

    folder = tmp_path_factory.mktemp("made")
    people = {"forget_people": 3, "retain_people": 6, "retain2_people": 2, "holdout_people": 3, "pretrain_people": 0}
    chosen = {name: one["default"] for name, one in parameters("corpora", "synthetic").items()}
    synthetic.build(chosen | people | {"asked_people": 3, "examples": 2}, folder / "corpus" / "data")
    write_json(folder / "corpus" / "manifest.json", {"files": "digest"})
    texts = json.loads((folder / "corpus/data/raw/retain1.json").read_text())
    tokenizer = build_tokenizer(texts, 320, 512)
    model = build_model({"hidden": 32, "layers": 2, "heads": 2, "positions": 512}, tokenizer)
    save_checkpoint(model, tokenizer, folder / "run" / "checkpoint")
    write_json(folder / "run" / "outcome.json", {"status": "done", "weights": "abc", "step": 4})
    for name, scheme in SCHEMES.items():
        content = {"corpus": {"name": "people"}, "scheme": {"name": name, **scheme}, "metrics": METRICS, "batch_tokens": 2048}
        write_json(folder / f"{name}.json", content)
    assert run(folder, "full", "rtn_int4") == 0
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """A copy of `made`, evaluated, free to be changed."""
    return Path(shutil.copytree(made, tmp_path / "made"))


def run(folder, *schemes) -> int:
    files = [str(folder / f"{name}.json") for name in schemes]
    return evaluate.main(["--run", str(folder / "run"), "--corpus", str(folder / "corpus"), "--device", "cpu", "--schemes", *files])


def read(folder, scheme, metric):
    return json.loads((folder / "run" / "eval" / scheme / f"{metric}.json").read_text())


def change(folder, name, **entries):
    path = folder / name
    write_json(path, json.loads(path.read_text()) | entries)


def states(folder):
    """Bytes of all metric files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "run" / "eval").rglob("*")) if path.is_file()
    }


def changed(before, after):
    return {name for name in after if after[name] != before.get(name)}


def test_one_file_per_scheme_and_metric(made):
    names = {str(path.relative_to(made / "run" / "eval")) for path in (made / "run" / "eval").rglob("*.json")}
    assert names == {f"{scheme}/{metric}.json" for scheme in SCHEMES for metric in METRICS}
    for scheme in SCHEMES:
        for metric, entry in METRICS.items():
            content = read(made, scheme, metric)
            assert content["metric"] == metric and content["kind"] == entry["kind"] and content["status"] == "ok"
            assert 0 <= content["value"] <= 100 and content["n"] > 0 and content["samples"]
            assert content["scheme"]["name"] == scheme and content["version"] == 1 and len(content["fingerprint"]) == 16
            assert content["quantization"]["bits_per_weight"] == content["bits_per_weight"]
            assert content["settings"].items() >= {k: v for k, v in entry.items() if k != "kind"}.items()
            assert {"versions", "hardware", "started"} <= set(content["provenance"])
    assert (
        read(made, "full", "privleak")["bits_per_weight"] == 16 and 4 <= read(made, "rtn_int4", "privleak")["bits_per_weight"] < 5
    )
    full, rounded = (read(made, scheme, "privleak")["samples"]["forget"]["PPL"] for scheme in SCHEMES)
    assert full != rounded


def test_files_rescore_to_what_they_hold(made, capsys):
    files = [str(path) for path in (made / "run" / "eval").rglob("*.json")]
    assert rescore.main(files) == 0
    assert {json.loads(line)["max_abs_diff"] for line in capsys.readouterr().out.splitlines()} == {0.0}


def test_scores_against_the_model_itself(made):
    """PPL is transformers' own loss; KnowMem's response is transformers' own greedy text."""
    import torch
    from transformers import AutoModelForCausalLM

    from scripts.core.weights.models import load_tokenizer
    from scripts.metrics import knowmem

    model = AutoModelForCausalLM.from_pretrained(made / "run" / "checkpoint", dtype=torch.float32)
    tokenizer, data = load_tokenizer(made / "run" / "checkpoint"), made / "corpus" / "data"
    texts = json.loads((data / "privleak/forget.json").read_text())
    for text, loss in zip(texts, read(made, "full", "privleak")["samples"]["forget"]["PPL"], strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :512]
        assert loss == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)
    examples = json.loads((data / "knowmem/retain_qa_icl.json").read_text())[:2]
    for sample in read(made, "full", "knowmem_r")["samples"]:
        ids = tokenizer(knowmem.prompt(sample["question"], examples), return_tensors="pt")["input_ids"]
        out = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        text = tokenizer.decode(out, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for word in knowmem.STOP:
            text = text.split(word)[0]
        assert sample["response"] == text


def test_nothing_is_done_twice_and_torch_stays_out(copy):
    before = states(copy)
    code = "import sys; from scripts import evaluate; status = evaluate.main(sys.argv[1:])\n"
    code += "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(status)"
    schemes = [str(copy / f"{name}.json") for name in SCHEMES]
    line = [sys.executable, "-c", code, "--run", str(copy / "run"), "--corpus", str(copy / "corpus"), "--schemes", *schemes]
    subprocess.run(line, check=True, cwd=ROOT)
    assert states(copy) == before


def test_a_new_metric_computes_only_itself(copy):
    before = states(copy)
    change(copy, "full.json", metrics=METRICS | {"verbmem_r": {"kind": "verbmem", "split": "retain", "new_tokens": 3}})
    assert run(copy, "full", "rtn_int4") == 0
    assert changed(before, states(copy)) == {"run/eval/full/verbmem_r.json"}


def test_a_changed_setting_computes_its_metric(copy):
    before = states(copy)
    change(copy, "full.json", metrics=METRICS | {"knowmem_r": METRICS["knowmem_r"] | {"new_tokens": 5}})
    assert run(copy, "full", "rtn_int4") == 0
    assert changed(before, states(copy)) == {"run/eval/full/knowmem_r.json"}


def test_stating_a_default_or_another_batch_size_changes_nothing(copy):
    before = states(copy)
    change(copy, "full.json", metrics=METRICS | {"privleak": {"kind": "privleak", "max_tokens": 2048}}, batch_tokens=100)
    assert run(copy, "full") == 0 and states(copy) == before


@pytest.mark.parametrize("name", ["run/outcome.json", "corpus/manifest.json"])
def test_other_weights_or_texts_compute_everything(copy, name):
    before = states(copy)
    change(copy, name, weights="other")
    assert run(copy, "full") == 0
    assert changed(before, states(copy)) == {f"run/eval/full/{metric}.json" for metric in METRICS}


def test_a_newer_definition_computes_its_metric(copy, monkeypatch):
    from scripts.core import registry

    real, before = registry.constants, states(copy)
    monkeypatch.setattr(registry, "constants", lambda room, name: real(room, name) | ({"VERSION": 2} if name == "privleak" else {}))
    assert run(copy, "full") == 0
    assert changed(before, states(copy)) == {"run/eval/full/privleak.json"}


def test_unreadable_or_missing_file_is_made_again(copy):
    before = states(copy)
    (copy / "run/eval/full/privleak.json").write_text("{")
    (copy / "run/eval/full/verbmem_f.json").unlink()
    assert run(copy, "full") == 0
    after = states(copy)
    assert set(after) == set(before)
    for metric in ("privleak", "verbmem_f"):
        name = f"run/eval/full/{metric}.json"
        old, new = json.loads(before[name]), json.loads(after[name])
        assert {k: v for k, v in old.items() if k != "provenance"} == {k: v for k, v in new.items() if k != "provenance"}


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
