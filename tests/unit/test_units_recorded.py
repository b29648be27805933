"""Whom a text is about, as corpora name it and metrics record it: of each sample, and of each token of a window."""

import json
import math

import numpy as np
import pytest
import test_perplexity

from scripts import aggregate as program
from scripts.core import registry
from scripts.core.analysis import scored, statistics
from scripts.core.storage import file_digest, read_json, write_json
from scripts.corpora import muse, synthetic
from scripts.metrics import fluency, perplexity
from tests.unit.test_corpora import SMALL, content, filled, layout
from tests.unit.test_metrics import data, run  # noqa: F401
from tests.unit.test_units import LABELS

# windows of text


class Letters(test_perplexity.Letters):
    """The same with room for a window of any length, and it can tell where tokens begin."""

    positions = 99

    def starts(self, text):
        return list(range(len(text)))


class NoBos(Letters):
    bos = []


class Blind(Letters):
    def starts(self, text):
        return None


SETTINGS = {"split": "forget", "text": "raw", "max_tokens": 6}


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "raw/forget.json", ["abc", "", "de", "fgh"])
    write_json(tmp_path / "units/raw/forget.json", ["A", "E", "B", "A"])
    write_json(tmp_path / "privleak/forget.json", ["abcdefgh", "x"])
    write_json(tmp_path / "units/privleak/forget.json", ["A", "B"])
    return tmp_path


def test_each_token_belongs_to_the_text_it_begins_in_and_separators_to_the_text_before(folder):
    def owned(engine, **more):
        cut = perplexity.windows(engine, folder, SETTINGS | more)
        return ["".join(own) for own in perplexity.owners(engine, folder, SETTINGS | more, cut)]

    assert owned(Letters()) == ["AAAAA", "EEBBB", "BAAA"]  # of "abc\n\n" "\n\nde\n" "\nfgh"
    assert owned(NoBos()) == ["AAAAAE", "EBBBBA", "AA"]
    assert owned(Letters(), text="privleak") == ["AAAAAA", "BB"]


def test_parts_make_up_the_value(folder):
    found = perplexity.evaluate(Letters(), folder, SETTINGS)
    assert found["samples"][2]["parts"] == [{"unit": "B", "tokens": 1, "nll": 1.0}, {"unit": "A", "tokens": 3, "nll": 3.0}]
    assert [sum(part["tokens"] for part in s["parts"]) for s in found["samples"]] == [5, 5, 4]
    assert perplexity.evaluate(NoBos(), folder, SETTINGS)["samples"][0]["parts"][0] == {"unit": "A", "tokens": 4, "nll": 2.5}
    passages = perplexity.evaluate(Letters(), folder, SETTINGS | {"text": "privleak"})["samples"]
    assert [s["parts"][0]["unit"] for s in passages] == ["A", "B"]
    scores, weights, units = scored.per_sample(json.loads(json.dumps(found)) | {"kind": "perplexity"})
    assert units == ["A", "E", "B", "B", "A"] and np.average(scores, weights=weights) == pytest.approx(found["mean"], abs=1e-12)

    again = perplexity.rescore(json.loads(json.dumps(found)))
    assert [one["tokens"] for one in again["samples"]] == [5, 5, 4]
    assert [one["nll"] for one in again["samples"]] == pytest.approx([s["nll"] for s in found["samples"]], abs=1e-12)


def test_without_units_windows_are_as_they_were(folder):
    with_units = perplexity.evaluate(Letters(), folder, SETTINGS)
    assert all("parts" not in s for s in perplexity.evaluate(Blind(), folder, SETTINGS)["samples"]), "not known"
    (folder / "units/raw/forget.json").unlink()
    without = perplexity.evaluate(Letters(), folder, SETTINGS)
    assert [{k: v for k, v in s.items() if k != "parts"} for s in with_units["samples"]] == without["samples"]
    assert (with_units["value"], with_units["n"], with_units["tokens"]) == (without["value"], without["n"], without["tokens"])
    assert "samples" not in perplexity.rescore(without)
    write_json(folder / "units/raw/forget.json", ["A"])
    with pytest.raises(ValueError, match=r"units/raw/forget.json: is no list of 4; allowed: one unit for each text"):
        perplexity.evaluate(Letters(), folder, SETTINGS)


def test_a_real_tokenizer_tells_where_its_tokens_begin():
    from scripts.core.evaluation.engine import Engine
    from scripts.core.weights.models import build_tokenizer

    texts = ["Zoë Łęcka was born in 1900 in Málaga.", " a 東京 clock ", "", "Question: Who?\nAnswer: Zoë"]
    engine = Engine(None, build_tokenizer(texts, 300, 64))
    text = "\n\n".join(texts)
    (ids,), starts = engine.encode([text], special=False), engine.starts(text)
    assert len(ids) == len(starts) and starts == sorted(starts) and starts[0] == 0
    begins = np.cumsum([0] + [len(one) + 2 for one in texts[:-1]])
    owner = np.searchsorted(begins, starts, side="right") - 1
    pieces = ["".join(engine.decode([[i for i, own in zip(ids, owner, strict=True) if own == k]])) for k in range(4)]
    assert pieces == [one + "\n\n" for one in texts[:-1]] + texts[-1:]


def test_intervals_of_perplexity_are_over_units_by_hand(tmp_path):
    draw = np.random.default_rng(5)
    samples = [
        {"parts": [{"unit": u, "tokens": int(draw.integers(3, 30)), "nll": float(draw.random())} for u in pair]}
        for pair in (["a", "b"], ["b"], ["b", "c"], ["d", "a"])
    ]
    samples = [sample | perplexity.whole(sample["parts"]) for sample in samples]
    made = {"metric": "ppl_f", "kind": "perplexity", "status": "ok"} | perplexity.rescore({"samples": samples})
    write_json(tmp_path / "t/eval/full/ppl_f.json", made | {"samples": samples})
    given = [LABELS | {"run": "t", "method": "target", "seed": 0, "scheme": "full", "metric": "ppl_f", "kind": "perplexity"}]
    found = program.aggregate(given, tmp_path)["scores"].iloc[0]
    parts = [part for sample in samples for part in sample["parts"]]
    replicates = []
    for drawn in statistics.counts(4):
        times = dict(zip("abcd", drawn, strict=True))
        weight = [part["tokens"] * times[part["unit"]] for part in parts]
        replicates.append(math.exp(np.average([part["nll"] for part in parts], weights=weight)))
    assert (found.n, found.units, found.interval) == (4, 4, "units") and found["value"] == pytest.approx(made["value"])
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(replicates, [2.5, 97.5])), rel=1e-6)


# other metrics, and corpora


def test_samples_carry_the_unit_of_their_item(data):  # noqa: F811
    for kind, name in (("verbmem", "verbmem/forget"), ("knowmem", "knowmem/forget_qa")):
        before = run(kind, data)[1]
        assert all("unit" not in sample for sample in before["samples"])
        write_json(data / f"{name}.json", [item | {"unit": f"u{i}"} for i, item in enumerate(read_json(data / f"{name}.json"))])
        after = run(kind, data)[1]
        assert [sample["unit"] for sample in after["samples"]] == ["u0", "u1"] and after["value"] == before["value"]
    assert "unit" not in run("privleak", data)[1]["samples"]["forget"]
    write_json(data / "units/privleak/forget.json", ["a", "b", "c"])
    write_json(data / "units/privleak/holdout.json", ["x", "x"])
    samples = run("privleak", data)[1]["samples"]
    assert samples["forget"]["unit"] == ["a", "c"], "the second text has no token"
    texts = scored.passages({"samples": samples})
    assert scored.passage_units({"samples": samples}, texts) == (["a", "c"], ["x", "x"])
    del samples["holdout"]["unit"]
    assert scored.passage_units({"samples": samples}, texts) is None


def test_fluency_s_samples_carry_the_unit_of_their_text(tmp_path):
    class Words:
        def cut(self, texts, tokens):
            return texts

        def generate(self, prompts, *_, **__):
            return ["a b c" for _ in prompts]

    write_json(tmp_path / "raw/retain2.json", ["one", "two", "three"])
    write_json(tmp_path / "units/raw/retain2.json", ["A", "A", "B"])
    settings = registry.defaults("metrics", "fluency") | {"prompts": 2}
    assert [s["unit"] for s in fluency.evaluate(Words(), tmp_path, settings)["samples"]] == ["A", "A"]


def test_the_synthetic_corpus_names_people_and_its_training_text_is_as_it_was(tmp_path):
    synthetic.build(filled("synthetic", **SMALL), tmp_path)
    recorded = {"forget": "e38c8891ede92872", "pretrain": "47a7d0364b5789ad", "retain1": "9174f754ee0bdc3c"}
    assert {name: file_digest(tmp_path / f"raw/{name}.json")[:16] for name in recorded} == recorded
    lists = sorted(path.relative_to(tmp_path / "units").as_posix() for path in tmp_path.glob("units/*/*.json"))
    assert lists == [f"privleak/{s}.json" for s in ("forget", "holdout", "retain")] + [
        f"raw/{s}.json" for s in ("forget", "holdout", "retain1", "retain2")
    ]
    for name in lists:
        texts, units = read_json(tmp_path / name), read_json(tmp_path / "units" / name)
        assert all(unit in text for unit, text in zip(units, texts, strict=True)), "each text has its person's whole name"
    for split in ("forget", "retain"):
        items = [*read_json(tmp_path / f"knowmem/{split}_qa.json"), *read_json(tmp_path / f"verbmem/{split}.json")]
        assert all(item["unit"] in item.get("question", item.get("prompt")) for item in items)
        assert all(item.keys() == {"question", "answer"} for item in read_json(tmp_path / f"knowmem/{split}_qa_icl.json"))


def test_a_folder_in_the_muse_layout_may_name_units(tmp_path):
    source = layout(tmp_path / "source", **{"knowmem/forget_qa": json.dumps([{"question": "q", "answer": "a", "unit": "ch. 1"}])})
    plain = layout(tmp_path / "plain")
    (source / "units/raw").mkdir(parents=True)
    (source / "units/raw/forget.json").write_text('["chapter 1"]')
    for name in ("source", "plain"):
        muse.build(filled("muse", source=str(tmp_path / name)), tmp_path / "out" / name)
    built, without = content(tmp_path / "out/source"), content(tmp_path / "out/plain")
    assert set(built) - set(without) == {"units/raw/forget.json"} and set(without) == set(content(plain))
    assert {name for name in without if built[name] != without[name]} == {"knowmem/forget_qa.json"}
    assert read_json(tmp_path / "out/source/knowmem/forget_qa.json")[0]["unit"] == "ch. 1"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("units/raw/forget", '["a", "b"]', "units/raw/forget.json is no list of 1 names"),
        ("units/privleak/holdout", "[3]", "units/privleak/holdout.json is no list of 1 names"),
        ("units/raw/retain1", "[oops", "not readable as JSON"),
        ("verbmem/forget", '[{"prompt": "p", "gt": "g", "unit": 3}]', "key 'unit', is no list of 1 names"),
        ("knowmem/forget_qa", '[{"question": "", "answer": "", "unit": "u"}, {"question": "", "answer": ""}]', "list of 2 names"),
    ],
)
def test_units_that_do_not_fit_are_one_clear_line(tmp_path, name, text, words):
    source = layout(tmp_path)
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / f"{name}.json").write_text(text)
    with pytest.raises(ValueError) as error:
        muse.check(filled("muse", name="m", source=str(source)))
    assert words in str(error.value) and str(error.value).startswith("corpora.m.source") and "allowed" in str(error.value)
