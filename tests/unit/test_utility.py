"""Fluency by hand, and lm-eval's tasks on a tiny model, offline and under a quantized scheme."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import evaluate
from scripts.core import registry
from scripts.core.analysis import scored
from scripts.core.storage import write_json
from scripts.metrics import fluency, lm_eval

TASKS = Path(__file__).parent / "tasks"
METRICS = {
    "gen": {"kind": "lm_eval", "task": "colours", "source": str(TASKS), "shots": 1},
    "flu": {"kind": "fluency", "split": "forget", "prompts": 2, "new_tokens": 6, "temperature": 1.0},
}


def test_entropy_by_hand():
    words = "a b a b a".split()  # ab ba ab ba; aba bab aba
    assert fluency.ngram_entropy(words, 2) == pytest.approx(1)
    third = math.log2(3) - 2 / 3  # frequencies 2/3 and 1/3
    assert fluency.ngram_entropy(words, 3) == pytest.approx(third)
    assert fluency.entropy("a b a b a") == pytest.approx((2 / 3 + 4 / 3 * third) / 2)
    assert fluency.entropy("one two three four five") == pytest.approx((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2)
    assert fluency.entropy("so, so, so, so,") < fluency.entropy("so, as we go,")
    assert fluency.WORD.findall("Don't — a_1, Über!") == ["Don", "'", "t", "—", "a_1", ",", "Über", "!"]
    assert fluency.entropy("") == fluency.entropy("a") == fluency.entropy("a a a a a") == 0


def test_fluency_rescores_and_prompts_begin_the_texts(tmp_path):
    class Words:
        def cut(self, texts, tokens):
            return [" ".join(text.split()[:tokens]) for text in texts]

        def generate(self, prompts, *settings, **named):
            assert (settings, named) == ((9,), {"temperature": 0.7, "seed": 3})
            return ["x y x y x" if "in" in prompt else "" for prompt in prompts]

    write_json(tmp_path / "raw/retain2.json", ["once upon a time", "in a town", "left out"])
    settings = registry.defaults("metrics", "fluency") | {"prompts": 2, "prompt_tokens": 2}
    settings |= {"new_tokens": 9, "temperature": 0.7, "seed": 3}
    found = fluency.evaluate(Words(), tmp_path, settings)
    assert [s["prompt"] for s in found["samples"]] == ["once upon", "in a"] and found["n"] == 2
    assert found["value"] == pytest.approx(100 * fluency.entropy("x y x y x") / 2)
    assert scored.per_sample(found)[0].tolist() == [0, pytest.approx(found["mean"] * 2)]
    assert fluency.rescore(json.loads(json.dumps(found)))["value"] == found["value"]


def test_a_task_from_a_folder_under_full_precision_and_rtn(tmp_path):
    from scripts.core.weights.models import build_model, build_tokenizer, save_checkpoint

    texts = [one["question"] for one in json.loads((TASKS / "colours.json").read_text())]
    shape = {"hidden": 32, "layers": 1, "heads": 2, "positions": 128}
    tokenizer = build_tokenizer(texts * 3, 300, 128)
    save_checkpoint(build_model(shape, tokenizer), tokenizer, tmp_path / "run/checkpoint")
    write_json(tmp_path / "run/outcome.json", {"status": "done", "weights": "w"})
    write_json(tmp_path / "corpus/manifest.json", {})
    write_json(tmp_path / "corpus/data/raw/forget.json", texts)
    for name, scheme in (("full", {"kind": "full"}), ("rtn", {"kind": "rtn", "bits": 4, "granularity": "tensor"})):
        content = {"corpus": {"name": "c"}, "scheme": {"name": name} | scheme, "metrics": METRICS, "batch_tokens": 512}
        write_json(tmp_path / f"{name}.json", content)
    common = ["--run", str(tmp_path / "run"), "--corpus", str(tmp_path / "corpus"), "--device", "cpu", "--schemes"]
    assert evaluate.main([*common, str(tmp_path / "full.json"), str(tmp_path / "rtn.json")]) == 0
    for scheme in ("full", "rtn"):
        found = json.loads((tmp_path / f"run/eval/{scheme}/gen.json").read_text())
        assert found["n"] == 3 and found["score"] == "acc" and {s["acc"] for s in found["samples"]} <= {0.0, 1.0}
        assert found["value"] == lm_eval.rescore(found)["value"] == pytest.approx(100 * sum(s["acc"] for s in found["samples"]) / 3)
        assert json.loads((tmp_path / f"run/eval/{scheme}/flu.json").read_text())["n"] == 2


@pytest.mark.parametrize("task", ["colours", "named"])
def test_a_model_of_two_answers_tasks_as_any_model_does(task):
    """Of whp: with one model as both parts, its logits are that model's."""
    from scripts.core.evaluation.engine import Engine
    from scripts.core.weights.models import build_model, build_tokenizer
    from scripts.core.weights.pairs import Pair

    tokenizer = build_tokenizer([(TASKS / "colours.json").read_text()], 300, 128)
    model = build_model({"hidden": 32, "layers": 1, "heads": 2, "positions": 128}, tokenizer)
    settings = registry.defaults("metrics", "lm_eval") | {"task": task, "source": str(TASKS)}
    engines = [Engine(each, tokenizer, batch_tokens=512) for each in (model, Pair(model, model, 1.0))]
    one, two = (lm_eval.evaluate(engine, None, settings) for engine in engines)
    assert one["samples"] == two["samples"] and len(two["samples"]) == 3


@pytest.mark.parametrize("task", ["colours", "named"])
def test_a_gpu_without_room_for_a_batch_goes_on_with_smaller_ones(task, monkeypatch, capsys):
    import torch

    from scripts.core.evaluation.engine import Engine
    from scripts.core.weights.models import build_model, build_tokenizer

    tokenizer = build_tokenizer([(TASKS / "colours.json").read_text()], 300, 128)
    model = build_model({"hidden": 32, "layers": 1, "heads": 2, "positions": 128}, tokenizer)
    forward, passes, most = model.forward, [], None

    def limited(input_ids, **inputs):
        passes.append(len(input_ids))
        if most and len(input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(model, "forward", limited)
    settings = registry.defaults("metrics", "lm_eval") | {"task": task, "source": str(TASKS)}
    engine = Engine(model, tokenizer, batch_tokens=4 * 128)
    wanted, before = lm_eval.evaluate(engine, None, settings), len(passes)
    assert max(passes) > 2
    most = 1
    assert lm_eval.evaluate(engine, None, settings)["samples"] == wanted["samples"]
    assert max(passes[before + 2 :]) == 1
    assert "4 texts at a time: CUDA out of memory. Tried to allocate 9 GiB.; going on with 2\n" in capsys.readouterr().err
    most = 0.5
    with pytest.raises(torch.OutOfMemoryError):
        lm_eval.evaluate(engine, None, settings)


def test_an_item_s_score_is_the_first_that_its_task_has_under_its_first_filter():
    strict, loose = (
        {"filter": name, "doc_id": 3, "exact_match": score, "f1": 0.5} for name, score in (("strict", 1), ("loose", 0))
    )
    found = {"b": [{"doc_id": 0, "f1": 0.25}], "a": [strict, loose, strict | {"doc_id": 4}]}
    wanted = [("a", 3, 1.0), ("a", 4, 1.0), ("b", 0, 0.25)]
    assert lm_eval.collect(found, "g") == ([{"task": t, "item": i, "acc": s} for t, i, s in wanted], "exact_match")
    assert lm_eval.collect({"a": [{"doc_id": 0, "acc": 0, "exact_match": 1}]}, "g")[0][0]["acc"] == 0
    for items in ([], [{"doc_id": 0, "bleu": 1}]):
        with pytest.raises(ValueError, match="'a' of 'g' has no score per item; allowed: tasks with acc, exact_match, f1"):
            lm_eval.collect({"a": items}, "g")


def test_what_lm_eval_is_told_and_what_it_can_not_find(tmp_path, monkeypatch):
    from scripts.core.evaluation.engine import Engine
    from scripts.core.weights.models import build_model, build_tokenizer

    tokenizer = build_tokenizer([(TASKS / "colours.json").read_text()], 300, 128)
    model = build_model({"hidden": 32, "layers": 1, "heads": 2, "positions": 128}, tokenizer)
    chosen = registry.defaults("metrics", "lm_eval") | {"task": "colours", "source": str(TASKS)}
    with pytest.raises(ValueError, match="task: 'shapes' is unknown; allowed: a task of .*tasks"):
        lm_eval.evaluate(Engine(model, tokenizer), None, chosen | {"task": "shapes"})
    (tmp_path / "colours.yaml").write_text((TASKS / "colours.yaml").read_text())
    with pytest.raises(ValueError, match=r"data of 'colours' can't be read from .*; allowed: data at hand$"):
        lm_eval.evaluate(Engine(model, tokenizer), None, chosen | {"source": str(tmp_path)})
    asked = []

    def simple_evaluate(model, **given):
        asked.append((model.batch_size, model.max_length, given["num_fewshot"], given["limit"], given["tasks"]))
        return {"samples": {"colours": [{"doc_id": 0, "acc": 1.0}]}}

    monkeypatch.setattr("lm_eval.simple_evaluate", simple_evaluate)
    for tokens in (3 * 128, 100):
        found = lm_eval.evaluate(Engine(model, tokenizer, batch_tokens=tokens), None, chosen | {"shots": 2, "limit": 5})
    assert asked == [(3, 128, 2, 5, ["colours"]), (1, 128, 2, 5, ["colours"])] and found["value"] == 100
    assert found["lm_eval"] == lm_eval.version() and not model._forward_hooks


def test_broken_logits_have_no_score():
    import torch

    from scripts.core.evaluation.generation import NotFinite

    class Output:
        logits = torch.tensor([[[0.0, math.nan]]])

    with pytest.raises(NotFinite):
        lm_eval.guard(None, None, Output())


def test_what_can_be_known_before_any_job(tmp_path, monkeypatch):
    chosen = registry.defaults("metrics", "lm_eval")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # the second is of data sets alone
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv(variable, "1")
        with pytest.raises(ValueError, match=f"source: 'hub' while {variable} is set, and cais/mmlu is not in the cache"):
            lm_eval.check(chosen)
        lm_eval.check(chosen | {"task": "arc_easy"})  # whose data set is not known here
    (tmp_path / "hub/datasets--cais--mmlu").mkdir(parents=True)
    lm_eval.check(chosen)
    with pytest.raises(ValueError, match="source: '/nowhere'"):
        lm_eval.check(chosen | {"source": "/nowhere"})
    with pytest.raises(ValueError, match="task: 'shapes'"):
        lm_eval.check(chosen | {"source": str(TASKS), "task": "shapes"})
    lm_eval.check(chosen | {"source": str(TASKS), "task": "colours"})


def test_the_library_is_imported_only_when_asked_for():
    code = (
        "import sys, scripts.metrics.lm_eval, scripts.evaluate; assert not {'lm_eval', 'torch', 'transformers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
