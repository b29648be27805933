"""What a sweep takes from the hub or from local folders: names, what folders have to hold, what is not looked for again."""

import copy

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


def test_the_base_of_a_fine_tuning_is_looked_at(tmp_path):
    config = copy.deepcopy(MICRO) | {"results": str(tmp_path / "results")}
    recipe = {"steps": 2, "lr": "1e-3"}
    config["corpora"]["people"]["model"] = {"kind": "finetune", "base": "./nowhere", "finetune": recipe}
    plan = sweep.grid.plan(sweep.configuration.resolve(config))
    with pytest.raises(ConfigError, match="^corpora.people.model.base: './nowhere' is no folder"):
        origins.check(plan)
