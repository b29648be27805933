"""A sweep whose data, target, retrain model and tokenizer come from a hub: a small one on this machine, asked over HTTP."""

import copy
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import MICRO, Sweep

from scripts.core.storage import read_json
from tests.hub_server import Hub, commit

METRICS = ("verbmem_f", "knowmem_f", "knowmem_r", "privleak")


def publish_data(corpus, folder) -> None:
    """A corpus's files as a data set in the form of MUSE's: a config per task, a split per file, in Parquet."""
    head = ["---", "configs:"]
    for config in ("raw", "knowmem", "verbmem", "privleak"):
        (folder / config).mkdir(parents=True)
        head += [f"- config_name: {config}", "  data_files:"]
        for path in sorted((corpus / config).glob("*.json")):
            items = read_json(path)
            table = pd.DataFrame({"text": items} if isinstance(items[0], str) else items)
            if (units := corpus / "units" / config / path.name).exists():
                table["unit"] = read_json(units)
            table.to_parquet(folder / config / f"{path.stem}.parquet")
            head += [f"  - split: {path.stem}", f"    path: {config}/{path.stem}.parquet"]
    (folder / "README.md").write_text("\n".join([*head, "---", "# People", ""]))


@pytest.fixture(scope="module")
def hub(finished, tmp_path_factory):
    """The micro sweep's corpus and models, published; main of the target holds other weights (the retrain model's) than its v1."""
    root, people = tmp_path_factory.mktemp("hub"), finished.results / "people"
    publish_data(people / "corpus/data", root / "datasets/lab/people/v1")
    for name, revision, run in (("target", "v1", "target"), ("target", "main", "retrain"), ("retrain", "main", "retrain")):
        folder = root / "models/lab" / f"people-{name}" / revision
        shutil.copytree(people / run / "checkpoint", folder)
        (folder / "consolidated.safetensors").write_bytes(b"the same weights in another layout")
        (folder / "pytorch_model.bin").write_bytes(b"pickle")
    tokenizer = root / "models/lab/tokenizer/main"
    tokenizer.mkdir(parents=True)
    for path in (people / "target/checkpoint").glob("*token*"):
        shutil.move(root / "models/lab/people-target/v1" / path.name, tokenizer / path.name)
    with Hub(root) as served:
        yield served


@pytest.fixture
def sweep(tmp_path):
    """The micro sweep with everything from the hub, one unlearned model."""
    config = copy.deepcopy(MICRO)
    model = {"kind": "pretrained", "target": "lab/people-target@v1", "retrain": "lab/people-retrain", "tokenizer": "lab/tokenizer"}
    entry = {"kind": "muse", "source": "lab/people", "revision": "v1", "max_length": 64}
    config["corpora"] = {"people": entry | {"model": model | {"billions": 0.001}}}
    config["sweep"] = [{"corpus": "people", "method": "npo", "regularizer": "gdr"}]
    config["schemes"] = {"full": {"kind": "full"}}
    return Sweep(tmp_path, config)


def test_a_sweep_from_the_hub_has_the_scores_of_its_models(hub, sweep, finished, tmp_path):
    sweep.run("scores", env=hub.environment(tmp_path / "home"))
    for run in ("target", "retrain"):
        for metric in METRICS:
            ours, theirs = (read_json(s.results / "people" / run / "eval/full" / f"{metric}.json") for s in (sweep, finished))
            assert ours["value"] == theirs["value"] and ours["n"] == theirs["n"], (run, metric)
    files = [
        {p.relative_to(s.results): p.read_bytes() for p in (s.results / "people/corpus/data").rglob("*.json")}
        for s in (sweep, finished)
    ]
    others = {Path("people/corpus/data", name) for name in ("raw/pretrain.json", "verbmem/retain.json")}  # not MUSE's
    assert files[1].keys() - files[0].keys() == others and all(files[1][name] == content for name, content in files[0].items())
    weights = [read_json(s.results / "people/target/outcome.json")["weights"] for s in (sweep, finished)]
    assert weights[0] == weights[1], "v1, not main"
    assert read_json(sweep.results / "people/target/run.json")["sources"] == {
        "target": {"source": "lab/people-target@v1", "commit": commit("v1")},
        "tokenizer": {"source": "lab/tokenizer", "commit": commit("main")},
    }
    asked = json.dumps([path for path in hub.asked if not path.startswith("HEAD")])
    assert "people-target/resolve" in asked and ".bin" not in asked and "consolidated" not in asked and commit("main") in asked

    # Afterwards neither the hub nor its cache is needed.
    sweep.config["schemes"]["rtn_int4"] = {"kind": "rtn", "bits": 4, "granularity": "tensor"}
    jobs = sweep.jobs()
    assert "reference" not in jobs and "corpus" not in jobs and jobs["evaluate_full"] == 3


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("target", "lab/people-target@v9", ["lab/people-target@v9", "can't be loaded", "RevisionNotFound"]),
        ("target", "lab/nobody", ["lab/nobody", "can't be loaded", "RepositoryNotFound"]),
        ("tokenizer", "lab/nobody", ["tokenizer", "lab/nobody", "can't be loaded"]),
    ],
)
def test_what_the_hub_lacks_ends_the_job_in_one_line(hub, sweep, tmp_path, key, value, words):
    sweep.config["corpora"]["people"]["model"][key] = value
    done = sweep.run("results/micro/people/target/outcome.json", env=hub.environment(tmp_path / "home"), check=False)
    assert done.returncode
    logs = "".join(path.read_text() for path in (sweep.results / "logs").rglob("*target*") if path.is_file())
    (line,) = [line for line in (done.stdout + done.stderr + logs).splitlines() if line.startswith("error: ")][:1]
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    "key, value, words",
    [
        (
            "target",
            "./nowhere",
            "corpora.people.model.target: './nowhere' is no folder; allowed: a folder that is there, or a hub id",
        ),
        ("retrain", "/data/people@v1", "corpora.people.model.retrain: '/data/people@v1' is no folder"),
        ("tokenizer", "owner/na me", "corpora.people.model.tokenizer: 'owner/na me' is no folder"),
        (
            "target",
            "lab/absent",
            "corpora.people.model.target: hub id 'lab/absent' while HF_HUB_OFFLINE is set and nothing is cached",
        ),
    ],
)
def test_what_can_be_no_model_is_refused_before_any_job(sweep, finished, tmp_path, key, value, words):
    entry = sweep.config["corpora"]["people"]
    entry["source"] = str(finished.results / "people/corpus/data")
    checkpoints = {run: str(finished.results / "people" / run / "checkpoint") for run in ("target", "retrain")}
    entry["model"] |= checkpoints | {"tokenizer": None, key: value}
    done = sweep.run("--dry-run", check=False, env={"HF_HOME": str(tmp_path)})
    assert done.returncode and words in done.stdout + done.stderr
