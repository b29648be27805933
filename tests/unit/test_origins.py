"""What a sweep takes from the hub or from local folders: names, what folders have to hold, what is not looked for again."""

import copy
import json
from fnmatch import fnmatch

import pytest

from scripts.core import hub
from scripts.core.planning import origins, sweep
from scripts.core.planning.checking import ConfigError
from scripts.core.storage import write_json
from tests.unit.test_config import MICRO


def checkpoint(folder, *names):
    """A folder with empty files of these names."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


@pytest.mark.parametrize(
    "names, missing",
    [
        (["model.safetensors", "tokenizer.json"], "config.json"),
        (["config.json", "pytorch_model.bin", "tokenizer.json"], r"no \*.safetensors; .*from_pretrained"),
        (["config.json", "model-00001-of-00002.safetensors"], "tokenizer"),
    ],
)
def test_a_folder_that_lacks_something(tmp_path, names, missing):
    with pytest.raises(ValueError, match=f"^here: '{tmp_path}/m' has no {missing.removeprefix('no ')}"):
        hub.check(checkpoint(tmp_path / "m", *names), "here")


def test_a_folder_that_has_what_is_asked_of_it(tmp_path):
    hub.check(checkpoint(tmp_path / "m", "config.json", "model.safetensors"), "here", tokenizer=False)
    hub.check(checkpoint(tmp_path / "t", "tokenizer.model"), "here", weights=False)
    hub.check(checkpoint(tmp_path / "both", "config.json", "a.safetensors", "tokenizer_config.json"), "here")


@pytest.mark.parametrize("name", ["gpt2", "lab/people", "lab/people@v1", "Lab-1/peo.ple_2@refs/pr/3", "a/b@0f3c9a"])
def test_names_of_the_hub(name, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub.check(name, "here")


@pytest.mark.parametrize("name", ["/data/m", "./m", "../m", "~/m", "a/b/c", "a b", "a/b@", "@v1", "-a/b", "https://x/a/b"])
def test_what_is_neither_folder_nor_name(name, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(ValueError, match="^here: .* is no folder; allowed: a folder that is there, or a hub id"):
        hub.check(name, "here")


def test_offline_only_what_is_cached(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="hub id 'lab/m@v1' while HF_HUB_OFFLINE is set and nothing is cached"):
        hub.check("lab/m@v1", "here")
    (tmp_path / "hub/models--lab--m").mkdir(parents=True)
    hub.check("lab/m@v1", "here")
    assert not hub.cached("datasets", "lab/m")
    (tmp_path / "datasets/lab___m").mkdir(parents=True)
    assert hub.cached("datasets", "lab/m") and hub.cached("models", "lab/m")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert hub.offline() is None and hub.offline("HF_DATASETS_OFFLINE") is None
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "yes")
    assert hub.offline() is None and hub.offline("HF_DATASETS_OFFLINE") == "HF_DATASETS_OFFLINE"


def test_names_and_their_revisions():
    assert hub.named("lab/m") == ("lab/m", None) and hub.named("lab/m@refs/pr/3") == ("lab/m", "refs/pr/3")


def test_a_folder_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab/m@v1").mkdir(parents=True)
    assert hub.fetch("lab/m@v1") == (hub.Path("lab/m@v1"), None)


def test_what_was_taken_is_not_looked_for_again(tmp_path):
    """Results are redrawn on a machine that has neither the corpus's folder nor the models'."""
    config = copy.deepcopy(MICRO) | {"results": str(tmp_path)}
    model = {"kind": "pretrained", "target": "/gone/target", "retrain": "/gone/retrain", "tokenizer": "/gone/tokenizer"}
    config["corpora"] = {"people": {"kind": "muse", "source": "/gone/data", "max_length": 64, "model": model}}
    plan = sweep.grid.plan(sweep.configuration.resolve(config))
    for run, key in (("corpus", "source"), ("target", "model.target"), ("retrain", "model.retrain")):
        with pytest.raises(ConfigError, match=rf"^corpora.people.{key}: '/gone/\w+' is no"):
            origins.check(plan)
        folder = tmp_path / "people" / run
        write_json(folder / "spec.json", plan.runs[f"people/{run}"].spec)
        write_json(folder / ("manifest.json" if run == "corpus" else "outcome.json"), {})
    origins.check(plan)
    write_json(tmp_path / "people/target/spec.json", {"another": "target"})
    with pytest.raises(ConfigError, match="^corpora.people.model.target"):
        origins.check(plan)
    plan.runs["people/target"].spec["model"]["target"] = checkpoint(tmp_path / "m", "config.json", "model.safetensors")
    with pytest.raises(ConfigError, match="^corpora.people.model.tokenizer: '/gone/tokenizer' is no folder"):
        origins.check(plan)
    plan.runs["people/target"].spec["model"]["tokenizer"] = checkpoint(tmp_path / "t", "tokenizer.json")
    origins.check(plan)


def test_the_base_of_a_fine_tuning_is_looked_at(tmp_path):
    config = copy.deepcopy(MICRO) | {"results": str(tmp_path / "results")}
    recipe = {"steps": 2, "lr": "1e-3"}
    config["corpora"]["people"]["model"] = {"kind": "finetune", "base": "./nowhere", "finetune": recipe}
    plan = sweep.grid.plan(sweep.configuration.resolve(config))
    with pytest.raises(ConfigError, match="^corpora.people.model.base: './nowhere' is no folder"):
        origins.check(plan)


@pytest.mark.parametrize(
    "variable, folder",
    [
        ("HF_HUB_CACHE", "models--lab--m"),
        ("HF_HOME", "hub/models--lab--m"),
        ("XDG_CACHE_HOME", "huggingface/hub/models--lab--m"),
        ("HF_DATASETS_CACHE", "lab___m"),
        ("HF_HOME", "datasets/lab___m"),
    ],
)
def test_where_a_cache_is(tmp_path, monkeypatch, variable, folder):
    """As huggingface_hub and datasets read these variables; without one it is in ~/.cache."""
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    kind = "models" if "models" in folder else "datasets"
    (tmp_path / "home/.cache/huggingface/hub/models--lab--home").mkdir(parents=True)
    assert hub.cached("models", "lab/home") and not hub.cached(kind, "lab/m")
    monkeypatch.setenv(variable, str(tmp_path / "there"))
    assert not hub.cached(kind, "lab/m")
    (tmp_path / "there" / folder).mkdir(parents=True)
    assert hub.cached(kind, "lab/m") and (kind == "models" or not hub.cached("models", "lab/m"))


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A function that sets what a repository holds; returns [(revision asked for, files downloaded)], filled by downloads."""
    import huggingface_hub

    def holds(*names):
        folder, asked = tmp_path / "snapshots/0f3c", []
        folder.mkdir(parents=True)

        def download(name, revision, allow_patterns):
            assert name == "lab/m"
            chosen = sorted(file for file in names if any(fnmatch(file, pattern) for pattern in allow_patterns))
            for file in chosen:
                text = json.dumps({"weight_map": {"a": "a-1.safetensors", "b": "a-2.safetensors"}}) if "index" in file else "{}"
                (folder / file).write_text(text)
            asked.append((revision, chosen))
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        return asked

    return holds


SHARDS = ["a-1.safetensors", "a-2.safetensors"]


@pytest.mark.parametrize(
    "names, weights",
    [
        (["config.json", "model.safetensors", "consolidated.safetensors"], [["model.safetensors"]]),
        (["config.json", hub.INDEX, *SHARDS, "consolidated.safetensors", "pytorch_model.bin"], [SHARDS]),
        (["config.json", "other.safetensors"], [[], ["other.safetensors"]]),
        (["config.json", "pytorch_model.bin"], [[], []]),
    ],
)
def test_only_the_weights_that_are_read_are_downloaded_and_of_one_commit(repository, names, weights):
    asked = repository(*names, "tokenizer.model", "README.md")
    folder, commit = hub.fetch("lab/m@v1")
    small = sorted([name for name in names if name.endswith(".json")] + ["tokenizer.model"])
    assert asked == [("v1", small), *(("0f3c", files) for files in weights)]
    assert commit == folder.name == "0f3c"


def test_of_a_tokenizer_no_weights_are_downloaded(repository):
    asked = repository("tokenizer.json", "model.safetensors")
    hub.fetch("lab/m", "tokenizer")
    assert asked == [(None, ["tokenizer.json"])]


def test_files_of_weights_are_those_that_transformers_reads(tmp_path):
    checkpoint(tmp_path / "m", "consolidated.safetensors")
    assert hub.weights_files(tmp_path / "m") == set()
    write_json(tmp_path / "m" / hub.INDEX, {"weight_map": {"a": "a-1.safetensors", "b": "a-2.safetensors", "c": "a-2.safetensors"}})
    assert hub.weights_files(tmp_path / "m") == set(SHARDS)
    checkpoint(tmp_path / "m", "model.safetensors")
    assert hub.weights_files(tmp_path / "m") == {"model.safetensors"}
