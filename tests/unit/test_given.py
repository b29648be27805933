"""What is given to a sweep: keys that stand twice in a file, entries that a later file drops, values on the command line."""

from pathlib import Path

import pytest

from scripts.core.planning import given, sweep
from scripts.core.planning.checking import ConfigError
from scripts.core.storage import write_json

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: 1\nsweep:\n  - {lr: 1}\nsweep: []\n", ["sweep: stands in line 2 of ", "again in line 4", "allowed: once"]),
        ("sweep:\n  - corpus: a\n    lr: '1e-5'\n    lr: '2e-5'\n", ["sweep[0].lr: stands in line 3", "line 4"]),
        ("schemes: {full: {kind: full}, full: {kind: rtn}}\n", ["schemes.full: stands in line 1"]),
    ],
    ids=["section", "key of a block", "in braces"],
)
def test_a_key_that_stands_twice(tmp_path, text, words):
    """YAML takes the last one, so that the cells of the first would be missing without a word."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        given.check_repeated(file)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(ValueError, match="stands in line"):
        sweep.read(file)


@pytest.mark.parametrize("path", ["config.yaml", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("profiles/*/*.yaml"))])
def test_shipped_files_repeat_nothing(path):
    given.check_repeated(ROOT / path)


def test_merge_keys_aliases_and_empty_files_are_no_repetition(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("a: &a {b: 1}\nc: {<<: *a, b: 2}\nd: [*a, *a]\n")
    given.check_repeated(file)
    file.write_text("")
    given.check_repeated(file)


def test_values_of_the_command_line_are_those_of_a_file():
    """Snakemake reads `partial=true` and all inside brackets as texts; texts that look like numbers stay texts where they are."""
    config = {
        "partial": "true",
        "resources": {"gpus": "1", "zero": "2", "threads": 4},
        "sweep": [{"seed": ["0"], "lr": ["1.0e-5"]}],
    }
    laid = {"partial": "true", "resources": {"gpus": "1", "zero": "2"}, "sweep": config["sweep"]}
    assert given.overlaid(config, laid) == {
        "partial": True,
        "resources": {"gpus": 1, "zero": "2", "threads": 4},
        "sweep": [{"seed": [0], "lr": ["1.0e-5"]}],
    }
    assert config["partial"] == "true"
    for text in ("none", "ga", "1e-5", "results/b", "{", "2026-11-24"):
        assert given.words(text) == text
    assert given.words("null") is None and given.words("0.5") == 0.5


def test_without_a_name_the_working_directorys_configuration_counts_then_the_projects(tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="'config.yaml' does not exist"):
        given.default(project)
    (project / "config.yaml").write_text("results: a\n")
    assert given.default(project) == str(project / "config.yaml")
    (tmp_path / "config.yaml").write_text("results: b\n")
    assert given.default(project) == "config.yaml"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "holds nothing; allowed: a mapping"),
        ("# sweep\n", "holds nothing"),
        ("[a, b]\n", "holds \"['a', 'b']\""),
        ("hello\n", "holds 'hello'"),
        ("a: [1\n", "is not YAML (expected ',' or ']', but got '<stream end>' in line 2)"),
    ],
    ids=["empty", "comment", "list", "text", "no YAML"],
)
def test_a_file_that_is_no_mapping_is_named_in_one_line(tmp_path, monkeypatch, text, words):
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    for read in (lambda: given.default(ROOT), lambda: sweep.read("config.yaml")):
        with pytest.raises(ValueError) as caught:
            read()
        assert "'config.yaml' " + words in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_left_out_where_weights_were_removed(tmp_path):
    write_json(tmp_path / "sweep.json", {"metrics": {"a": {}, "b": {}}, "schemes": {"full": {}, "x": {}}})
    config = {
        "results": str(tmp_path),
        "metrics": {"a": {}, "c": {}},
        "schemes": {"full": {}},
        "keep_checkpoints": "until_evaluated",
        "unlearning": {},
        "sweep": [{"corpus": "people", "method": "ga"}],
    }
    assert given.left_out(config) == ["metrics.b", "schemes.x"]
    assert given.left_out(config | {"keep_checkpoints": "all"}) == given.left_out(config | {"keep_checkpoints": "last"}) == []
    along = {"keep_checkpoints": "last", "sweep": [{"checkpoint_at": [1, 2]}]}
    assert given.left_out(config | along) == ["metrics.b", "schemes.x"]
    assert given.left_out(config | {"results": str(tmp_path / "none")}) == []


def test_a_later_file_drops_what_an_earlier_one_names(tmp_path):
    """`false` for a corpus, scheme or metric; null stays the short form of an entry without parameters."""
    later = tmp_path / "later.yaml"
    later.write_text("metrics: {knowmem_f: false, privleak: null}\nschemes: {bnb_fp4: false}\n")
    plan = sweep.read(ROOT / "config.yaml", later)
    assert set(plan.config["metrics"]) == {"verbmem_f", "knowmem_r", "privleak"}
    assert set(plan.config["schemes"]) == {"full", "bnb_int8", "bnb_nf4", "rtn_int4_g128"}
    later.write_text("schemes: {full: false, bnb_int8: false, bnb_fp4: false, bnb_nf4: false, rtn_int4_g128: false}\n")
    with pytest.raises(ConfigError, match="^schemes: {} is not allowed"):
        sweep.read(ROOT / "config.yaml", later)


def test_false_for_a_name_that_no_file_has_is_a_mistake(tmp_path):
    later = tmp_path / "later.yaml"
    later.write_text("metrics: {privleakk: false}\n")
    with pytest.raises(ConfigError, match="^metrics.privleakk: false drops nothing; known: .*did you mean 'privleak'"):
        sweep.read(ROOT / "config.yaml", later)
    given.check_dropped([{"schemes": {"a": None}}, {"schemes": {"a": False}}, {"schemes": {"a": {}}}])
    with pytest.raises(ConfigError, match="^corpora.b"):
        given.check_dropped([{"corpora": {"a": {}}}, {"corpora": {"b": "false"}}])  # as `--config` has it
