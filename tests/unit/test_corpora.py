"""Corpora: equal bytes from equal settings, people apart by split, and one clear line for what cannot be read."""

import json
import re
from pathlib import Path

import pytest

from scripts import build_corpus
from scripts.core import registry
from scripts.core.storage import digest, file_digest, read_json
from scripts.corpora import muse, synthetic

NEWS = Path(__file__).parents[2].parent / "shared" / "data" / "muse-news"
SMALL = {"forget_people": 4, "retain_people": 6, "retain2_people": 2, "holdout_people": 3, "pretrain_people": 5}
SMALL |= {"asked_people": 3, "examples": 4, "events": 3, "repeats": 3}


def filled(kind, **given):
    return registry.defaults("corpora", kind) | given


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*.json"))}


def people(items):
    return set(re.findall(r"[A-Z]\w+ [A-Z]\w+(?= was born)", json.dumps(items)))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    synthetic.build(filled("synthetic", **SMALL), folder)
    return folder


def test_the_layout_is_complete(built):
    expected = {f"raw/{split}.json" for split in ("pretrain", "forget", "retain1", "retain2", "holdout")}
    expected |= {f"knowmem/{split}{end}.json" for split in ("forget", "retain") for end in ("_qa", "_qa_icl")}
    expected |= {"verbmem/forget.json", "verbmem/retain.json"}
    expected |= {f"privleak/{split}.json" for split in ("forget", "retain", "holdout")}
    expected |= {f"units/privleak/{split}.json" for split in ("forget", "retain", "holdout")}
    expected |= {f"units/raw/{split}.json" for split in ("forget", "retain1", "retain2", "holdout")}
    assert set(content(built)) == expected


@pytest.mark.parametrize("changes", [{}, {"pretrain_people": 0}, {"examples": 0}])
def test_the_files_that_there_will_be_are_told_before(changes, tmp_path):
    settings = filled("synthetic", **SMALL | changes)
    synthetic.build(settings, tmp_path)
    there = {name.removesuffix(".json") for name in content(tmp_path) if not name.startswith("units/")}
    assert sorted(synthetic.files(settings)) == sorted(there)


def test_equal_settings_give_equal_bytes_and_another_seed_others(built, tmp_path):
    synthetic.build(filled("synthetic", **SMALL), tmp_path / "again")
    synthetic.build(filled("synthetic", **SMALL, seed=1), tmp_path / "other")
    assert content(tmp_path / "again") == content(built)
    other = content(tmp_path / "other")
    assert all(other[name] != text for name, text in content(built).items())


def test_people_are_in_one_split_only(built):
    groups = [people(read_json(path)) for path in sorted((built / "raw").glob("*.json"))]
    assert sorted(map(len, groups)) == [2, 3, 4, 5, 6]
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_each_text_stands_repeats_times_in_another_order(built):
    found = read_json(built / "raw" / "forget.json")
    assert len(found) == 3 * 4 * (1 + 3) and all(found.count(text) == 3 for text in found)
    assert len({tuple(found[k : k + 16]) for k in (0, 16, 32)}) > 1


def test_questions_are_answered_in_the_training_text_in_the_form_of_the_prompt(built):
    from scripts.metrics.knowmem import PAIR

    for split, raw in (("forget", "forget"), ("retain", "retain1")):
        trained = read_json(built / "raw" / f"{raw}.json")
        for item in read_json(built / "knowmem" / f"{split}_qa.json"):
            assert PAIR.format(**item) in trained


def test_examples_are_of_people_who_are_not_asked(built):
    asked = people(read_json(built / "verbmem" / "forget.json")) | people(read_json(built / "verbmem" / "retain.json"))
    for split in ("forget", "retain"):
        shown = read_json(built / "knowmem" / f"{split}_qa_icl.json")
        assert len(shown) == 4
        assert not [item for item in shown if any(name in item["question"] for name in asked)]


def test_a_prompt_and_its_continuation_are_a_trained_passage(built):
    for split, raw in (("forget", "forget"), ("retain", "retain1")):
        trained = read_json(built / "raw" / f"{raw}.json")
        for item in read_json(built / "verbmem" / f"{split}.json"):
            assert item["prompt"] + item["gt"] in trained


def test_the_continuation_does_not_follow_from_the_prompt():
    ends = [synthetic.person(f"{first} Abbott", 0, 4, 3)["rest"] for first in synthetic.FIRST]
    assert len(set(ends)) == len(ends)


def test_settings_that_do_not_fit_are_one_clear_line():
    for given, word in (({"asked_people": 48}, "asked_people"), ({"pretrain_people": 3000}, "names are unique")):
        with pytest.raises(ValueError, match=word) as error:
            synthetic.check(filled("synthetic", name="people", **given))
        assert str(error.value).startswith("corpora.people") and "allowed" in str(error.value)


def layout(folder, **changes):
    """A minimal MUSE folder; `changes` maps "config/split" to other text, or to None for no file."""
    entry = {"raw": "a text", "privleak": "a text", "knowmem": {"question": "q", "answer": "a"}}
    entry["verbmem"] = {"prompt": "p", "gt": "g"}
    splits = {"raw": ("forget", "retain1", "retain2", "holdout")} | muse.TASKS
    for config, names in splits.items():
        for split in names:
            text = changes.get(f"{config}/{split}", json.dumps([entry[config]]))
            if text is not None:
                (folder / config).mkdir(parents=True, exist_ok=True)
                (folder / config / f"{split}.json").write_text(text)
    return folder


def test_a_local_folder_is_taken_as_it_is(tmp_path):
    source = layout(tmp_path / "source", **{"raw/holdout": None, "verbmem/retain": None})
    muse.build(filled("muse", source=str(source), splits=["forget", "retain1"], tasks=["verbmem"]), tmp_path / "out")
    assert set(content(tmp_path / "out")) == {"raw/forget.json", "raw/retain1.json", "verbmem/forget.json"}
    (source / "raw/pretrain.json").write_text('["other text"]')
    muse.build(filled("muse", source=str(source), splits=["forget", "pretrain"], tasks=[]), tmp_path / "more")
    assert set(content(tmp_path / "more")) == {"raw/forget.json", "raw/pretrain.json"}


@pytest.mark.parametrize(
    "name, text, word",
    [
        ("raw/retain1", None, "retain1.json is missing"),
        ("knowmem/forget_qa", None, "corpora.m.tasks"),
        ("raw/forget", "[]", "empty"),
        ("raw/forget", '["", ""]', "empty"),
        ("raw/forget", "{}", "list"),
        ("raw/forget", "[oops", "not readable as JSON"),
        ("privleak/holdout", "[1]", "entry 0"),
        ("knowmem/retain_qa", '[{"question": "q"}]', "entry 0"),
        ("verbmem/forget", '[{"prompt": "p", "gt": null}]', "entry 0"),
    ],
)
def test_a_folder_that_cannot_be_read_is_one_clear_line(tmp_path, name, text, word):
    source = layout(tmp_path, **{name: text})
    with pytest.raises(ValueError, match=re.escape(word)) as error:
        muse.check(filled("muse", name="m", source=str(source)))
    assert "corpora.m.source" in str(error.value) and "allowed" in str(error.value) and "\n" not in str(error.value)


def test_a_hub_id_offline_is_an_error_before_any_job(monkeypatch, tmp_path):
    settings = filled("muse", name="news")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    muse.check(settings)
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            with pytest.raises(ValueError, match=f"corpora.news.source: hub id .* {variable}"):
                muse.check(settings)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "muse-bench___MUSE-News").mkdir()
    muse.check(settings)


@pytest.mark.parametrize("source", ["no-such-folder", "../no/such/folder", "/no/such/folder"])
def test_a_source_that_is_neither_folder_nor_hub_id_is_an_error(source):
    with pytest.raises(ValueError, match="is not a folder"):
        muse.check(filled("muse", source=source))


@pytest.mark.skipif(not NEWS.is_dir(), reason=f"needs the MUSE-News files in {NEWS}")
def test_the_real_news_corpus(tmp_path):
    muse.build(filled("muse", source=str(NEWS), splits=["forget"]), tmp_path)
    assert len(read_json(tmp_path / "raw" / "forget.json")) == 889
    assert len(read_json(tmp_path / "knowmem" / "retain_qa_icl.json")) == 10
    with pytest.raises(ValueError, match="retain1.json is missing"):
        muse.check(filled("muse", source=str(NEWS)))


def test_the_program_writes_data_and_then_the_manifest(tmp_path, capsys):
    spec = {"stage": "corpus", "corpus": {"name": "people", "kind": "synthetic", "max_length": 64, **SMALL}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    assert build_corpus.main(["--spec", str(tmp_path / "spec.json"), "--out", str(tmp_path / "corpus")]) == 0
    manifest = read_json(tmp_path / "corpus" / "manifest.json")
    assert manifest["spec"] == digest(spec) and len(manifest["files"]) == 21
    for name, entry in manifest["files"].items():
        path = tmp_path / "corpus" / "data" / name
        assert entry == {"sha256": file_digest(path), "items": len(read_json(path))}
    assert "raw/forget.json: 48 items" in capsys.readouterr().out


def test_a_build_that_fails_leaves_no_manifest_and_one_line(tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("corpora.m.source: gone")

    monkeypatch.setattr(muse, "_hub", fail)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "manifest.json").write_text("{}")
    (tmp_path / "spec.json").write_text(json.dumps({"stage": "corpus", "corpus": {"name": "m", "kind": "muse"}}))
    assert build_corpus.main(["--spec", str(tmp_path / "spec.json"), "--out", str(tmp_path / "corpus")]) == 2
    error = capsys.readouterr().err
    assert "source: gone" in error and error.count("\n") == 1
    assert list((tmp_path / "corpus").iterdir()) == []


def test_a_hub_data_set_is_read_by_config_split_and_column(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    tables = {
        ("raw", "forget"): [{"text": "one"}, {"text": "two"}],
        ("verbmem", "forget"): [{"prompt": "p", "gt": "g", "id": 1, "unit": None}],  # another split has units
    }

    def load(source, config, split, revision):
        assert (source, revision) == ("owner/name", "v2")
        if (config, split) not in tables:
            raise ValueError(f"Unknown split {split!r}.\nShould be one of …")
        return datasets.Dataset.from_list(tables[config, split])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    settings = filled("muse", name="m", source="owner/name", revision="v2", splits=["forget"], tasks=["verbmem"])
    muse.build(settings, tmp_path)
    assert read_json(tmp_path / "raw" / "forget.json") == ["one", "two"]
    assert read_json(tmp_path / "verbmem" / "forget.json") == [{"prompt": "p", "gt": "g"}]
    with pytest.raises(ValueError, match=r"owner/name/raw/retain1 cannot be loaded .Unknown split 'retain1'\..; allowed"):
        muse.build(settings | {"splits": ["retain1"]}, tmp_path)
    tables["raw", "forget"] = [{"story": "one"}]
    with pytest.raises(ValueError, match="no column 'text'"):
        muse.build(settings, tmp_path)


def test_an_unknown_kind_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="muse, synthetic"):
        build_corpus.build({"corpus": {"kind": "sinthetic"}}, tmp_path)
