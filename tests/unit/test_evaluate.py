"""The evaluation program on a tiny run: files, fingerprints, and what is computed again. What fails: test_evaluate_failures.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import rescore
from tests.unit.evaluated import METRICS, SCHEMES, change, changed, read, run, states

ROOT = Path(__file__).parents[2]


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
