"""Calibration sets: windows of a text, and what can't be had is refused as early as it can be known."""

import copy
import json
import random
from pathlib import Path

import pytest
import yaml

from scripts import build_corpus
from scripts.core.planning import calibration, config, grid
from scripts.core.storage import dumps

MICRO = yaml.safe_load((Path(__file__).parents[1] / "workflow/micro.yaml").read_text())


class Letters:
    """A tokenizer of one token per letter."""

    bos_token_id = 1

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": [2 + ord(c) % 60 for c in text]}


class NoBos(Letters):
    bos_token_id = None


def settings(**changes):
    return {"calibration": "generic", "samples": 4, "length": 32, "calibration_seed": 0, "text": None, **changes}


def test_calibration_windows_are_drawn_by_seed_from_the_set_that_is_named(tmp_path):
    windows, facts = calibration.sample(settings(), tmp_path, Letters())
    assert len(windows) == 4 and all(len(w) == 32 and w[0] == 1 for w in windows)
    assert calibration.sample(settings(), tmp_path, Letters()) == (windows, facts)
    other, changed = calibration.sample(settings(calibration_seed=1), tmp_path, Letters())
    assert other != windows and changed["digest"] != facts["digest"]
    everything = settings(samples=facts["tokens"] // 31)
    many = [tuple(w) for w in calibration.sample(everything, tmp_path, Letters())[0]]
    assert len(many) == facts["tokens"] // 31
    raw = tmp_path / "data" / "raw"
    raw.mkdir(parents=True)
    (raw / "forget.json").write_text(json.dumps(["secret " * 50]))
    (raw / "retain1.json").write_text(json.dumps(["common " * 50]))
    forget, _ = calibration.sample(settings(calibration="forget"), tmp_path, Letters())
    retain, _ = calibration.sample(settings(calibration="retain"), tmp_path, Letters())
    assert forget != retain


def test_windows_hold_each_token_of_the_documents_once(tmp_path):
    (tmp_path / "own.txt").write_text("abc\n\nde\nf\n\n \n\n")
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/forget.json").write_text(json.dumps(["abc", " ", "de\nf"]))
    stream = Letters()("abc\n\nde\nf\n\n")["input_ids"]
    for chosen in ({"text": str(tmp_path / "own.txt")}, {"calibration": "forget"}):

        def cut(length, tokenizer, chosen=chosen):
            windows, tokens = calibration.cut(settings(length=length, **chosen), tmp_path, tokenizer)
            assert tokens == len(stream) == 11
            return windows

        assert cut(5, Letters()) == [[1, *stream[:4]], [1, *stream[4:8]]]
        assert cut(5, NoBos()) == [stream[:5], stream[5:10]]
        assert cut(12, Letters()) == [[1, *stream]] and cut(11, NoBos()) == [stream] and cut(13, Letters()) == []


def test_samples_are_drawn_from_all_windows(tmp_path):
    windows, _ = calibration.cut(settings(), tmp_path, Letters())
    drawn, _ = calibration.sample(settings(calibration_seed=5), tmp_path, Letters())
    assert drawn == [windows[i] for i in random.Random(5).sample(range(len(windows)), 4)]


@pytest.mark.parametrize("content", ['{"a": 1}', "[1, 2]", '["a", null]'])
def test_a_split_that_is_no_list_of_texts(tmp_path, content):
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/forget.json").write_text(content)
    with pytest.raises(ValueError, match="^calibration: .*forget.json is not usable; allowed: a list of strings"):
        calibration.texts(settings(calibration="forget"), tmp_path)


def test_a_file_of_as_many_bytes_as_tokens_might_do(tmp_path):
    (tmp_path / "own.txt").write_text("x" * 128)
    calibration.check(settings(text=str(tmp_path / "own.txt")))
    with pytest.raises(ValueError, match="samples: 4 of 33 tokens are more than the 128 bytes of own.txt"):
        calibration.check(settings(text=str(tmp_path / "own.txt"), length=33))


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (settings(calibration="forget", samples=40), "samples: 40 of 32 tokens .* at most"),
        (settings(calibration="retain"), "retain1.json, which is not readable"),
        (settings(length=1), "length: 1 is not allowed"),
        (settings(calibration="everything"), "calibration: 'everything' is not allowed"),
    ],
)
def test_calibration_that_can_not_be_had(tmp_path, scheme, message):
    raw = tmp_path / "data" / "raw"
    raw.mkdir(parents=True)
    (raw / "forget.json").write_text(json.dumps(["secret " * 50]))
    with pytest.raises(ValueError, match=message):
        calibration.sample(scheme, tmp_path, Letters())


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (settings(samples=1000, length=512), "samples: 1000 of 512 tokens are more than"),
        (settings(text="/nowhere.txt"), "text: '/nowhere.txt' is missing"),
        (settings(calibration="forget", text="a.txt"), "text: 'a.txt' has no meaning"),
    ],
)
def test_calibration_known_before_any_job(scheme, message):
    with pytest.raises(ValueError, match=message):
        calibration.check(scheme)


def swept(**scheme):
    """The micro sweep's plan with one calibrated scheme among its own."""
    settings = copy.deepcopy(MICRO)
    settings["schemes"]["g"] = {"kind": "gptq", "bits": 4, "group": 16, **scheme}
    return grid.plan(config.resolve(settings))


def test_what_a_sweep_asks_of_its_corpora():
    asked = calibration.demands(swept(calibration="forget", samples=8, length=32), "people")
    assert asked == "g=forget:8x32"
    assert calibration.demands(swept(calibration="generic", samples=8, length=32), "people") == ""


def test_demands_that_a_text_can_not_meet(tmp_path):
    raw = tmp_path / "data" / "raw"
    raw.mkdir(parents=True)
    (raw / "forget.json").write_text(json.dumps(["secret " * 50]))
    calibration.check_demands("", tmp_path)
    calibration.check_demands("g=forget:10x32", tmp_path)
    with pytest.raises(ValueError, match="schemes.a=b.samples: 12 of 32 tokens are more than the forget text gives; .*354 bytes"):
        calibration.check_demands("g=forget:10x32,a=b=forget:12x32", tmp_path)
    for enough in ("11x32", "177x2"):  # by its bytes it might
        calibration.check_demands(f"g=forget:{enough}", tmp_path)
    calibration.check_demands("g=forget:11x32", tmp_path, Letters())  # and does
    with pytest.raises(ValueError, match="schemes.g.samples: 11 of 34 .* at most 10 "):
        calibration.check_demands("f=forget:10x32,g=forget:11x34", tmp_path, Letters())


def test_a_corpus_that_is_there_is_asked_by_a_dry_run(tmp_path):
    plan = swept(calibration="retain", samples=1000, length=32)
    plan.config["results"] = str(tmp_path)
    calibration.check_built(plan)
    folder = tmp_path / "people/corpus"
    (folder / "data/raw").mkdir(parents=True)
    (folder / "data/raw/retain1.json").write_text(json.dumps(["common " * 50]))
    (folder / "manifest.json").write_text("{}")
    (folder / "spec.json").write_text("{}")
    calibration.check_built(plan)  # a corpus of other settings will be built anew
    (folder / "spec.json").write_text(dumps(plan.runs["people/corpus"].spec))
    with pytest.raises(ValueError, match="schemes.g.samples: 1000 of 32 tokens"):
        calibration.check_built(plan)
    (folder / "data").rename(tmp_path / "removed")
    calibration.check_built(plan)  # it will be built anew
    with pytest.raises(ValueError, match="--calibration: 'g=forget' is not allowed"):
        calibration.check_demands("g=forget", folder)


def test_a_corpus_is_not_published_when_it_is_too_short(tmp_path, capsys):
    plan = swept(calibration="retain", samples=1000, length=1000)
    (tmp_path / "spec.json").write_text(dumps(plan.runs["people/corpus"].spec))
    where = ["--spec", str(tmp_path / "spec.json"), "--out", str(tmp_path / "corpus")]
    assert build_corpus.main([*where, "--calibration", calibration.demands(plan, "people")]) == 2
    assert "schemes.g.samples: 1000 of 1000 tokens are more than the retain text gives" in capsys.readouterr().err
    assert not (tmp_path / "corpus/manifest.json").exists()
