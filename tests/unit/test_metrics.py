"""Metrics against the libraries that define them, brute force, and recorded scores of real runs."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.core import registry
from scripts.core.evaluation import rouge
from scripts.core.evaluation.engine import before, read_items
from scripts.metrics import knowmem, privleak

WORDS = "the a cat sat on mat 1991 in £300bn don't Über x-ray".split()


def text(draw, longest):
    return " ".join(draw.choices(WORDS, k=draw.randrange(longest))) + draw.choice(["", "!", "\n"])


def test_rouge_equals_the_package_to_the_last_bit():
    from rouge_score.rouge_scorer import RougeScorer

    scorer, draw = RougeScorer(["rouge1", "rougeL"], use_stemmer=False), random.Random(0)
    pairs = [(text(draw, 40), text(draw, 60)) for _ in range(300)] + [("", "a"), ("a", ""), ("!", "?"), ("İ ß", "i ss")]
    for truth, response in pairs:
        wanted = scorer.score(truth, response)
        assert rouge.score(truth, response) == {
            "rougeL": wanted["rougeL"].fmeasure,
            "rougeL_recall": wanted["rougeL"].recall,
            "rouge1": wanted["rouge1"].fmeasure,
            "rouge1_recall": wanted["rouge1"].recall,
        }


def test_rouge_by_hand():
    # LCS "the cat sat" of 3 words; 4 words in the response, 5 in the truth.
    found = rouge.score("the black cat sat down", "the cat quietly sat")
    assert found["rougeL"] == pytest.approx(2 * 3 / (4 + 5)) and found["rougeL_recall"] == 3 / 5
    assert rouge.score("b a", "a b")["rouge1"] == 1 and rouge.score("b a", "a b")["rougeL"] == 0.5


def test_summary_is_the_mean():
    samples = [rouge.score("a b", "a b"), rouge.score("a b", "c")]
    assert rouge.summary(samples) == {"value": 50.0, "n": 2, "mean": dict.fromkeys(rouge.KEYS, 0.5)}


@pytest.mark.parametrize("seed", range(8))
def test_auc_counts_pairs_and_equals_scikit_learn(seed):
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(seed)
    first, second = draw.normal(size=17), draw.normal(size=23)
    if seed % 2:  # ties
        first, second = first.round(), second.round()
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in first for y in second]
    assert privleak.auc(first, second) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    labels = [0] * len(first) + [1] * len(second)
    assert privleak.auc(first, second) == roc_auc_score(labels, -np.concatenate([first, second]))


def test_auc_ends_and_bad_input():
    assert privleak.auc([2, 3], [0, 1]) == 1 and privleak.auc([0], [1, 2]) == 0 and privleak.auc([1, 1], [1]) == 0.5
    for wrong in ([], [float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match="allowed: at least one finite score"):
            privleak.auc(wrong, [1.0])
        with pytest.raises(ValueError, match="allowed: at least one finite score"):
            privleak.auc([1.0], wrong)


def test_text_scores_by_hand():
    import zlib

    logprobs = -np.arange(1, 11, dtype=float)  # −1 … −10
    found = privleak.text_scores(logprobs, logprobs * 2, "Ünicode text")
    assert found["PPL"] == 5.5 and found["PPL/lower"] == 0.5
    assert found["PPL/zlib"] == 5.5 / len(zlib.compress("Ünicode text".encode()))
    assert (found["Min-5%"], found["Min-20%"], found["Min-40%"]) == (10, 9.5, 8.5)  # at least one token
    assert list(found) == ["PPL", "PPL/lower", "PPL/zlib"] + [f"Min-{k}%" for k in (5, 10, 20, 30, 40, 50, 60)]


@pytest.mark.parametrize("length", range(1, 300, 7))
def test_min_k_takes_the_floor_of_the_share(length):
    # int(length · ratio) of the published code, without the float error of 0.07 · 100 and the like
    values = -np.arange(1.0, length + 1)
    for k in privleak.PERCENT:
        count = max(1, length * k // 100)
        assert privleak.text_scores(values, values, "x")[f"Min-{k}%"] == pytest.approx(np.arange(length, length - count, -1).mean())


def test_zlib_denominator_is_the_recorded_one():
    shared = Path(__file__).parents[2].parent / "shared"
    golden, texts = shared / "reference/golden/tv.json", shared / "data/muse-news/privleak/forget.json"
    if not golden.exists() or not texts.exists():
        pytest.skip("../shared with recorded scores and MUSE-News is not here")
    import zlib

    scores = json.loads(golden.read_text())["privleak"]["scores"]["forget"]
    for one, loss, ratio in zip(json.loads(texts.read_text()), scores["PPL"], scores["PPL/zlib"], strict=True):
        assert loss / len(zlib.compress(one.encode())) == ratio


def test_knowmem_prompt_is_the_training_form():
    from scripts.corpora import synthetic

    pair = {"question": "Who?", "answer": "Ada"}
    assert knowmem.PAIR.format(**pair) == synthetic.line(pair)
    asked = knowmem.prompt("Where?", [pair, pair])
    assert asked == "Question: Who?\nAnswer: Ada\n\nQuestion: Who?\nAnswer: Ada\n\nQuestion: Where?\nAnswer:"
    assert knowmem.prompt("Where?", [], space=True) == "Question: Where?\nAnswer: "


def test_stop_strings_cut():
    assert before(" Oslo\n\nQuestion: x", knowmem.STOP) == " Oslo"
    assert before("Oslo\nQuestion", knowmem.STOP) == "Oslo" and before("Oslo", ()) == "Oslo"
    assert before("Question: again", knowmem.STOP) == ""


class Echo:
    """An engine that knows every answer and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def cut(self, texts, tokens):
        return [" ".join(one.split()[:tokens]) for one in texts]

    def generate(self, prompts, new_tokens, **options):
        self.asked.append((prompts, new_tokens, options))
        return ["one two" for _ in prompts]

    def logprobs(self, texts, max_tokens):
        self.asked.append((texts, max_tokens))
        return [-np.arange(1.0, 1 + len(one)) for one in texts]


@pytest.fixture
def data(tmp_path):
    contents = {
        "verbmem/forget": [{"prompt": "p", "gt": "one two three"}, {"prompt": "q", "gt": "four five six"}],
        "knowmem/forget_qa": [{"question": "q1", "answer": "one two"}, {"question": "q2", "answer": "two"}],
        "knowmem/forget_qa_icl": [{"question": f"e{i}", "answer": f"a{i}"} for i in range(3)],
        "privleak/forget": ["aa", "", "aaaa"],
        "privleak/retain": ["b" * 3],
        "privleak/holdout": ["c" * 3, "c" * 5],
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path


def run(kind, data, **chosen):
    from scripts.evaluate import settings

    engine = Echo()
    return engine, registry.load("metrics", kind).evaluate(engine, data, settings({"kind": kind, **chosen}))


def test_verbmem_cuts_the_truth_and_passes_the_settings(data):
    engine, found = run("verbmem", data, new_tokens=2, temperature=0.9, seed=3)
    assert engine.asked == [(["p", "q"], 2, {"temperature": 0.9, "seed": 3})]
    assert [one["gt"] for one in found["samples"]] == ["one two", "four five"]
    assert found["value"] == 50 and found["n"] == 2 and found["samples"][0]["rougeL"] == 1


def test_knowmem_puts_its_examples_before_the_question(data):
    engine, found = run("knowmem", data, shots=2)
    prompts, tokens, options = engine.asked[0]
    assert prompts[1] == "Question: e0\nAnswer: a0\n\nQuestion: e1\nAnswer: a1\n\nQuestion: q2\nAnswer:"
    assert tokens == 32 and options == {"stop": knowmem.STOP} and found["shots"] == 2
    assert found["mean"]["rougeL"] == pytest.approx((1 + 2 / 3) / 2)
    assert run("knowmem", data, shots=0)[0].asked[0][0][0] == "Question: q1\nAnswer:"


def test_knowmem_of_the_retain_set_takes_its_own_examples_and_the_settings(data):
    for name, item in (("retain_qa", {"question": "r", "answer": "two"}), ("retain_qa_icl", {"question": "s", "answer": "b"})):
        (data / f"knowmem/{name}.json").write_text(json.dumps([item]))
    engine, found = run("knowmem", data, split="retain", shots=10, new_tokens=5, answer_space=True)
    assert engine.asked == [(["Question: s\nAnswer: b\n\nQuestion: r\nAnswer: "], 5, {"stop": knowmem.STOP})]
    assert found["shots"] == 1 and found["n"] == 1  # as many examples as there are


def test_privleak_leaves_out_texts_without_tokens(data):
    engine, found = run("privleak", data, max_tokens=7)
    assert engine.asked[0][1] == 7 and found["samples"]["forget"]["index"] == [0, 2] and found["n"] == 2
    # PPL of 2, 4 tokens against 3, 5 tokens: 1.5 and 2.5 against 2 and 3, one of four pairs
    assert found["auc"]["forget_holdout_PPL"] == 0.25
    assert found["value"] == 100 * found["auc"]["forget_holdout_Min-40%"]


def test_privleak_s_texts_are_scored_as_they_are_and_in_lower_case(data):
    (data / "privleak/holdout.json").write_text(json.dumps(["Cc"]))
    engine, found = run("privleak", data)
    assert engine.asked[0][0] == ["aa", "", "aaaa", "bbb", "Cc", "aa", "", "aaaa", "bbb", "cc"]
    assert found["n"] == 2 and len(found["samples"]["holdout"]["index"]) == 1  # n counts forget texts
    (data / "privleak/holdout.json").write_text(json.dumps(["", ""]))
    with pytest.raises(ValueError, match="privleak: no text of holdout has a token to score"):
        run("privleak", data)


def test_a_text_that_is_certain_in_lower_case_has_no_ratio_to_it():
    assert np.isnan(privleak.text_scores([-1.0], [0.0], "x")["PPL/lower"])


@pytest.mark.parametrize("kind", ["verbmem", "knowmem", "fluency"])
def test_what_is_generated_leaves_the_prompt_a_position(kind):
    check = registry.load("metrics", kind).check
    for sizes in ({"positions": 8}, {"max_position_embeddings": 8}):
        check({"new_tokens": 7}, sizes)
        with pytest.raises(ValueError, match="^new_tokens: 8 leave no room for a prompt; allowed: below 8"):
            check({"new_tokens": 8}, sizes)
    for unknown in (None, {}, {"max_position_embeddings": "many"}):
        check({"new_tokens": 8}, unknown)


def test_privleak_of_a_model_that_is_broken_has_no_value(data, monkeypatch):
    from scripts.core.evaluation.generation import NotFinite

    monkeypatch.setattr(Echo, "logprobs", lambda self, texts, max_tokens: [np.full(max(1, len(one)), np.nan) for one in texts])
    with pytest.raises(NotFinite, match="not finite"):
        run("privleak", data)


def test_a_pair_of_splits_that_only_the_record_has_is_computed_again(data):
    found = run("privleak", data)[1]
    content = {"scores": found["samples"], "auc": {"retain_holdout_PPL": None}}
    # PPL of 3 tokens against 3 and 5: 2 against 2 and 3, one tie of two pairs
    assert privleak.rescore(content)["auc"] == found["auc"] | {"retain_holdout_PPL": 0.25}


@pytest.mark.parametrize("kind", ["verbmem", "knowmem", "privleak"])
def test_rescore_gives_what_evaluate_gave(kind, data):
    found = run(kind, data, **({"new_tokens": 2} if kind == "verbmem" else {}))[1]
    again = registry.load("metrics", kind).rescore(json.loads(json.dumps(found)))
    assert again["value"] == found["value"] and again["n"] == found["n"] and again["mean"] == found["mean"]


def test_missing_split_names_the_setting(data):
    with pytest.raises(ValueError, match=r"verbmem.split: needs verbmem/retain.json"):
        run("verbmem", data, split="retain")
    (data / "empty.json").write_text("[]")
    with pytest.raises(ValueError, match="key: empty.json of the corpus is empty"):
        read_items(data, "empty", "key")


def test_plugins_need_no_torch():
    code = "import sys; from scripts.core import registry\n"
    code += "[registry.load('metrics', name) for name in registry.names('metrics')]; import scripts.core.evaluation.engine\n"
    code += "assert not {'torch', 'transformers', 'nltk', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
