"""Perplexity: windows by hand, the value from transformers' own loss, and its interval and recovery by brute force."""

import json
import math

import numpy as np
import pytest

from scripts import aggregate as program
from scripts import evaluate
from scripts.core.analysis import statistics
from scripts.core.storage import write_json
from scripts.metrics import perplexity

SETTINGS = {"split": "forget", "text": "raw", "max_tokens": 5}


class Letters:
    """An engine whose tokens are letters, BOS is 0, and whose log p of a token is −(its place in the window)."""

    bos, positions = [0], 9

    def encode(self, texts, special=True):
        return [self.bos * special + [ord(c) for c in text] for text in texts]

    def decode(self, ids):
        return ["".join(chr(i) for i in one if i) for one in ids]

    def token_logprobs(self, ids):
        return [-np.arange(1.0, max(1, len(one))) for one in ids]


class NoBos(Letters):
    bos = []


@pytest.fixture
def data(tmp_path):
    for name, texts in {"raw/forget": ["abcd", "ef"], "raw/retain1": ["xyz"], "privleak/forget": ["abcdefghijkl", "", "a"]}.items():
        write_json(tmp_path / f"{name}.json", texts)
    return tmp_path


def test_windows_cover_each_token_once(data):
    cut = perplexity.windows(Letters(), data, SETTINGS)
    assert Letters().decode(cut) == ["abcd", "\n\nef"] and [ids[0] for ids in cut] == [0, 0]
    assert Letters().decode(perplexity.windows(Letters(), data, SETTINGS | {"max_tokens": 4})) == ["abc", "d\n\n", "ef"]
    assert Letters().decode(perplexity.windows(NoBos(), data, SETTINGS)) == ["abcd\n", "\nef"]
    assert len(perplexity.windows(Letters(), data, SETTINGS | {"max_tokens": 99})) == 1, "never beyond the model's positions"
    assert Letters().decode(perplexity.windows(Letters(), data, SETTINGS | {"split": "retain"})) == ["xyz"]
    assert [len(ids) for ids in perplexity.windows(Letters(), data, SETTINGS | {"text": "privleak"})] == [5, 1, 2]


def test_value_weighs_tokens_alike(data):
    found = perplexity.evaluate(Letters(), data, SETTINGS | {"max_tokens": 4})  # windows of 3, 3 and 2 tokens
    assert [s["nll"] for s in found["samples"]] == [2, 2, 1.5] and [s["tokens"] for s in found["samples"]] == [3, 3, 2]
    assert found["mean"] == pytest.approx((6 + 6 + 3) / 8) and found["tokens"] == 8 and found["n"] == 3
    assert found["value"] == math.exp(found["mean"])
    assert perplexity.rescore(json.loads(json.dumps(found))) == {k: v for k, v in found.items() if k != "samples"}
    passages = perplexity.evaluate(Letters(), data, SETTINGS | {"text": "privleak"})
    assert [s["index"] for s in passages["samples"]] == [0, 2], "a passage without a token to score is left out"


def test_values_too_large_and_splits_that_are_not_there(data):
    from scripts.core.evaluation.generation import NotFinite

    class Lost(Letters):
        def token_logprobs(self, ids):
            return [np.full(max(0, len(one) - 1), -1000.0) for one in ids]

    with pytest.raises(NotFinite, match="larger than a number can be"):
        perplexity.evaluate(Lost(), data, SETTINGS)
    with pytest.raises(ValueError, match=r"perplexity.split: needs raw/holdout.json"):
        perplexity.evaluate(Letters(), data, SETTINGS | {"split": "holdout"})
    write_json(data / "privleak/forget.json", ["", ""])
    with pytest.raises(ValueError, match="perplexity.split: 'forget' has no token to score; allowed: texts that are not empty"):
        perplexity.evaluate(Letters(), data, SETTINGS | {"text": "privleak"})
    Letters.positions, kept = None, Letters.positions
    try:
        with pytest.raises(ValueError, match="perplexity.max_tokens: null"):
            perplexity.evaluate(Letters(), data, SETTINGS | {"max_tokens": None})
    finally:
        Letters.positions = kept


def test_a_null_length_is_the_corpus_s_and_decides_the_fingerprint(tmp_path):
    write_json(tmp_path / "outcome.json", {"status": "done"})
    write_json(tmp_path / "corpus/manifest.json", {})

    def job(length, **more):
        content = {"corpus": {"name": "c", "max_length": length}, "scheme": {"name": "full", "kind": "full"}}
        write_json(tmp_path / "scheme.json", content | {"metrics": {"p": {"kind": "perplexity"} | more}})
        return evaluate.Job(tmp_path, tmp_path / "corpus", tmp_path / "scheme.json").metrics["p"]

    assert job(128)["settings"]["max_tokens"] == 128 and job(128, max_tokens=64)["settings"]["max_tokens"] == 64
    assert job(128)["fingerprint"] != job(256)["fingerprint"]
    assert job(128, max_tokens=64)["fingerprint"] == job(256, max_tokens=64)["fingerprint"]


def test_against_transformers_own_loss(tmp_path):
    import torch

    from scripts.core.evaluation.engine import Engine
    from scripts.core.weights.models import build_model, build_tokenizer

    texts = [f"Person {i} was born in {1900 + 7 * i} and went to town {i * i}." for i in range(12)]
    write_json(tmp_path / "raw/holdout.json", texts)
    torch.manual_seed(0)
    tokenizer = build_tokenizer(texts, 300, 64)
    model = build_model({"hidden": 16, "layers": 1, "heads": 2, "positions": 64}, tokenizer).eval()
    engine = Engine(model, tokenizer, 256, quiet=True)
    found = perplexity.evaluate(engine, tmp_path, SETTINGS | {"split": "holdout", "max_tokens": 24})
    stream = tokenizer("\n\n".join(texts), add_special_tokens=False)["input_ids"]
    losses, lengths = [], []
    for i in range(0, len(stream), 23):
        ids = torch.tensor([[tokenizer.bos_token_id, *stream[i : i + 23]]])
        with torch.no_grad():
            losses.append(model(ids, labels=ids).loss.item())
        lengths.append(ids.shape[1] - 1)
    assert found["tokens"] == len(stream) == sum(lengths) and len(set(lengths)) == 2
    assert [s["nll"] for s in found["samples"]] == pytest.approx(losses, rel=1e-5)
    assert found["value"] == pytest.approx(math.exp(np.average(losses, weights=lengths)), rel=1e-5)


LABELS = {"corpus": "c", "regularizer": "gdr", "kind": "perplexity", "split": "forget", "metric": "loss_f"}


def put(root, run, scheme, nll, tokens):
    samples = [{"nll": float(a), "tokens": int(b)} for a, b in zip(nll, tokens, strict=True)]
    content = {"metric": "loss_f", "kind": "perplexity", "status": "ok", "samples": samples}
    write_json(root / run / "eval" / scheme / "loss_f.json", content | perplexity.rescore(content))


def cells(run, method, seed=0, **more):
    return [LABELS | {"run": run, "method": method, "seed": seed, "scheme": scheme} | more for scheme in ("full", "q")]


def test_interval_and_recovery_by_hand(tmp_path):
    draw = np.random.default_rng(0)
    tokens = draw.integers(5, 40, 25)
    nll = {(run, scheme): draw.uniform(low, low + 1, 25) for run, scheme, low in
           (("t", "full", 0), ("t", "q", 0.2), ("u", "full", 3), ("u", "q", 1), ("w", "full", 3.2), ("w", "q", 1.4))}  # fmt: skip
    for (run, scheme), values in nll.items():
        put(tmp_path, run, scheme, values, tokens)
    given = cells("t", "target") + cells("u", "npo", 0) + cells("w", "npo", 1)
    made = program.aggregate(given, tmp_path)

    def total(run, scheme, times=None):
        return np.average(nll[run, scheme], weights=tokens if times is None else tokens * times)

    resamples = statistics.counts(25)
    score = made["scores"].query("run == 'u' and scheme == 'q'").iloc[0]
    drawn = [math.exp(total("u", "q", times)) for times in resamples]
    assert score["value"] == pytest.approx(math.exp(total("u", "q"))) and score.n == 25
    assert (score.low, score.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), rel=1e-5)

    back = made["recovery"].query("run == 'u' and scheme == 'q'").iloc[0]
    ratios = [
        (total("u", "full", times) - total("u", "q", times)) / (total("u", "full", times) - total("t", "q", times))
        for times in [None, *resamples]
    ]
    assert pytest.approx(ratios[0]) == back.R and 0.5 < back.R < 0.9
    assert (back.R_low, back.R_high) == pytest.approx(tuple(np.percentile(ratios[1:], [2.5, 97.5])))
    assert np.isnan(back.K) and back.K_reason.startswith("undefined: a log-likelihood has no zero")
    assert back.unlearned == pytest.approx(math.exp(total("u", "q"))) and back.unlearned > back.target
    assert made["recovery"].query("run == 'u' and scheme == 'full'").iloc[0].R == 0

    pooled = made["scores"].query("seed == 'all' and scheme == 'q'").iloc[0]
    assert pooled["value"] == pytest.approx(math.exp((total("u", "q") + total("w", "q")) / 2)) and pooled.low < pooled["value"]


def test_recovery_without_forgetting_is_undefined(tmp_path):
    tokens = np.full(10, 8)
    for run, value in (("t", 1.0), ("u", 0.9)):
        for scheme in ("full", "q"):
            put(tmp_path, run, scheme, np.full(10, value), tokens)
    back = program.aggregate(cells("t", "target") + cells("u", "npo"), tmp_path)["recovery"].query("scheme == 'q'").iloc[0]
    assert np.isnan(back.R)
    assert back.R_reason.endswith("unlearned at full precision, in nats per token, is -0.100, not positive")
