"""Bad input: one line that names the key, the value and what is allowed, before any job starts."""

import copy
from pathlib import Path

import pytest
import yaml

from scripts.core.planning import config as configuration
from scripts.core.planning import grid, origins
from scripts.core.planning.checking import ConfigError
from scripts.core.planning.plan import Plan

ROOT = Path(__file__).parents[2]
MICRO = yaml.safe_load((ROOT / "tests/workflow/micro.yaml").read_text())


def changed(path: str, value) -> dict:
    """The micro configuration with one key set (dots separate, numbers index lists); DELETE removes it."""
    config = copy.deepcopy(MICRO)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    place = config
    for part in parents:
        place = place[part]
    if value is DELETE:
        del place[last]
    else:
        place[last] = value
    return config


DELETE = object()
MUSE = {"kind": "muse", "model": {"kind": "pretrained", "target": "a/b", "retrain": "a/c"}}

BAD = {
    "unknown method": ("sweep/0/method", "npoo", ["sweep[0].method", "'npoo'", "did you mean 'npo'"]),
    "unknown regularizer": ("sweep/0/regularizer", ["gdrr"], ["sweep[0].regularizer", "'gdrr'", "did you mean 'gdr'"]),
    "unknown scheme kind": ("schemes/full", {"kind": "ful"}, ["schemes.full.kind", "'ful'", "did you mean 'full'"]),
    "unknown metric kind": (
        "metrics/verbmem_f",
        {"kind": "verbmen"},
        ["metrics.verbmem_f.kind", "did you mean 'verbmem'"],
    ),
    "unknown corpus kind": ("corpora/people/kind", "sinthetic", ["corpora.people.kind", "did you mean 'synthetic'"]),
    "unknown corpus in the sweep": ("sweep/0/corpus", "peple", ["sweep[0].corpus", "'peple'", "did you mean 'people'"]),
    "unknown figure": ("figures", ["heatmap_x"], ["figures", "'heatmap_x'", "known:"]),
    "unknown top key": ("scheme", {}, ["scheme: unknown key", "did you mean 'schemes'"]),
    "unknown key in a block": ("sweep/0/lrs", ["1e-5"], ["sweep[0].lrs", "unknown key", "did you mean 'lr'"]),
    "unknown training key": ("unlearning/bach", 3, ["unlearning.bach", "did you mean 'batch'"]),
    "unknown scheme parameter": ("schemes/rtn_int4/bit", 4, ["schemes.rtn_int4.bit", "did you mean 'bits'"]),
    "unknown model kind": (
        "corpora/people/model/kind",
        "scrath",
        ["corpora.people.model.kind", "did you mean 'scratch'"],
    ),
    "wrong type, number as text": ("unlearning/batch", "four", ["unlearning.batch", "'four'", "integer"]),
    "wrong type, mapping as text": ("schemes", "full", ["schemes", "'full'", "mapping"]),
    "wrong type, seed": ("sweep/0/seed", "first", ["sweep[0].seed", "'first'", "integer"]),
    "a seed below zero": ("sweep/0/seed", [0, -1], ["sweep[0].seed", "-1", "≥ 0"]),
    "a seed of more than 31 bits": ("sweep/0/seed", 2**31, ["sweep[0].seed", "2147483648", "≤ 2147483647"]),
    "wrong type, a scheme as list": ("schemes/full", [1], ["schemes.full", "[1]", "a mapping"]),
    "a number where a text of digits is meant": (
        "resources/zero",
        2,
        ["resources.zero: 2 is not allowed", "one of auto, '2', '3'"],
    ),
    "nothing is spelled as in YAML": (
        "schemes/q",
        {"kind": "llmc_gptq", "act_order": True, "group": 16},
        ["schemes.q.act_order: True", "one of weight, static, null"],
    ),
    "below its bound": ("unlearning/clip", 0, ["unlearning.clip", "0 is not allowed", "> 0"]),
    "above its bound": ("schemes/rtn_int4/bits", 9, ["schemes.rtn_int4.bits", "9", "≤ 8"]),
    "alpha out of bounds": ("sweep/0/alpha", -1.0, ["sweep[0].alpha", "-1.0", "> 0"]),
    "not among the choices": ("unlearning/weights", "fp16", ["unlearning.weights", "'fp16'", "bf16_stochastic, fp32"]),
    "lr as a YAML number": ("sweep/0/lr", [1.0e-5], ["sweep[0].lr", "1e-05", "quotes"]),
    "lr as text that is no number": ("sweep/0/lr", "fast", ["sweep[0].lr", "'fast'", "not a number"]),
    "lr not positive": ("sweep/0/lr", "-1e-5", ["sweep[0].lr", "'-1e-5'", "out of bounds"]),
    "lr nan": ("unlearning/lr", "nan", ["unlearning.lr", "'nan'", "out of bounds"]),
    "a whole number as a fraction": ("unlearning/batch", 4.0, ["unlearning.batch", "4.0", "integer"]),
    "a seed as a fraction": ("sweep/0/seed", [0, 1.0], ["sweep[0].seed", "1.0", "integer"]),
    "a checkpoint as a fraction": ("sweep/0/checkpoint_at", [2.0], ["sweep[0].checkpoint_at[0]", "2.0", "integer"]),
    "no bound, as infinity": ("unlearning/clip", float("inf"), ["unlearning.clip", "inf", "finite number"]),
    "not a number": ("sweep/0/alpha", float("nan"), ["sweep[0].alpha", "nan", "finite number"]),
    "a corpus as a mapping": ("sweep/0/corpus", {"name": "people"}, ["sweep[0].corpus", "'people'", "known: people"]),
    "a figure twice": ("figures", ["cost", "cost"], ["figures", "each once"]),
    "missing kind of a model": ("corpora/people/model", {"layers": 2}, ["corpora.people.model.kind: missing", "layers"]),
    "full precision under another name": ("schemes", {"bf16": {"kind": "full"}}, ["schemes.bf16", "full: {kind: full}"]),
    "another scheme as full": ("schemes/full", {"kind": "rtn"}, ["schemes.full", "'rtn'", "full: {kind: full}"]),
    "a path that no file system takes": (
        "sweep/0",
        {"corpus": "people", "method": "ga", "max_steps": 999, "checkpoint_at": list(range(10, 999, 10))},
        ["sweep", "letters of its path", "allowed: 200", "checkpoint_at"],
    ),
    "nothing left of the sweep": (
        "sweep/0",
        {"corpus": "people", "method": "ga", "saliency": "module", "parameters": "lora"},
        ["sweep: no combination is left", "sweep[0]: ga with none: SURE chooses"],
    ),
    "results that look like an option": ("results", "-x", ["results", "'-x'", "matching"]),
    "two names of one scheme": (
        "schemes/again",
        {"kind": "full"},
        ["schemes.again", "schemes.full", "one name per scheme"],
    ),
    "scheme name with a slash": ("schemes/a b", {"kind": "full"}, ["schemes.a b", "not allowed"]),
    "group that does not divide": (
        "schemes/rtn_int4",
        {"kind": "rtn", "granularity": "group", "group": 48},
        ["schemes.rtn_int4.group", "48", "does not divide"],
    ),
    "bits that a backend lacks": ("schemes/q", {"kind": "gptq", "bits": 5, "group": 16}, ["schemes.q.bits", "5", "2, 3, 4, 8"]),
    "calibration text too short": (
        "schemes/q",
        {"kind": "awq", "group": 16, "samples": 500},
        ["schemes.q.samples", "500 of 128 tokens", "generic.txt"],
    ),
    "calibration text that is not there": (
        "schemes/q",
        {"kind": "awq", "group": 16, "text": "/nowhere.txt"},
        ["schemes.q.text", "/nowhere.txt", "missing"],
    ),
    "group without group granularity": ("schemes/rtn_int4/group", 64, ["schemes.rtn_int4.group", "64", "granularity"]),
    "a scheme that needs a GPU where jobs get none": (
        "schemes/auto",
        {"kind": "autogptq", "group": 16},
        ["schemes.auto.kind", "autogptq needs cuda", "resources.gpus: 0"],
    ),
    "missing required section": ("sweep", DELETE, ["sweep: missing"]),
    "missing model": ("corpora/people/model", DELETE, ["corpora.people.model: missing"]),
    "missing method": ("sweep/0/method", DELETE, ["sweep[0].method: missing"]),
    "empty list of methods": ("sweep/0/method", [], ["sweep[0].method", "[]"]),
    "empty sweep": ("sweep", [], ["sweep", "[]", "at least 1"]),
    "alpha without a regularizer": (
        "sweep/0",
        {"corpus": "people", "method": "ga", "regularizer": "none", "alpha": 2.0},
        ["sweep[0].alpha", "2.0", "remove"],
    ),
    "a percentile above 100": (
        "sweep/0",
        {"corpus": "people", "method": "ga", "saliency": "module", "percentile": 101},
        ["sweep[0].percentile", "101", "≤ 100"],
    ),
    "a percentile without a mask": (
        "sweep/0",
        {"corpus": "people", "method": "ga", "percentile": 90},
        ["sweep[0].percentile", "90", "remove"],
    ),
    "a method that needs a reinforced model, without its recipe": (
        "sweep/0",
        {"corpus": "people", "method": "task_vector"},
        ["corpora.people.model.reinforce", "missing", "task_vector", "a recipe"],
    ),
    "a checkpoint beyond the run": (
        "sweep/0",
        {"corpus": "people", "method": "ga", "checkpoint_at": [2, 5]},
        ["sweep[0].checkpoint_at", "5", "4 steps", "1 to 3"],
    ),
    "LoRA targets that match nothing": (
        "sweep/0",
        {"corpus": "people", "method": "ga", "parameters": "lora", "lora_targets": "q_proj+qkv_proj"},
        ["sweep[0].lora_targets", "'qkv_proj'", "matches no Linear layer", "gate_proj"],
    ),
    "a LoRA target in a layer that the model lacks": (
        "sweep/0",
        {"corpus": "people", "method": "ga", "parameters": "lora", "lora_targets": "layers.2.mlp.up_proj"},
        ["sweep[0].lora_targets", "'layers.2.mlp.up_proj'", "matches no Linear layer"],
    ),
    "beta for a method that has none": (
        "sweep/0",
        {"corpus": "people", "method": "ga", "beta": 0.1},
        ["sweep[0].beta", "0.1", "belongs to npo"],
    ),
    "heads that do not divide": ("corpora/people/model/heads", 3, ["corpora.people.model.heads", "3", "divisor"]),
    "chunk longer than the positions": (
        "corpora/people/model/positions",
        32,
        ["corpora.people.model.positions", "32", "at least max_length"],
    ),
    "results that end in a line break": ("results", "results/a\n", ["results: 'results/a\\n'", "matching"]),
    "results in a file": ("results", f"{__file__}/a", ["results", "test_config.py/a' can't be made in"]),
    "results that are a file": ("results", __file__, ["results", "test_config.py' is no folder", "can be made"]),
    "results with too long a name": ("results", "a" * 300, ["results", "a' can't be a folder (File name too long)"]),
    "a scheme with too long a name": ("schemes", {"a" * 101: {"kind": "rtn"}}, ["schemes.aaa", "at most 100 characters"]),
    "a batch beyond all bounds": ("unlearning/batch", 10**40, ["unlearning.batch", "≤ 65536"]),
    "a GPU's name that is none": ("resources/gpu_model", "a100; rm", ["resources.gpu_model", "'a100; rm'", "matching"]),
    "more new tokens than positions": (
        "metrics/verbmem_f/new_tokens",
        512,
        ["metrics.verbmem_f.new_tokens: 512", "below 512, the model's positions"],
    ),
    "a list for a mapping": ("schemes", ["full"], ["schemes: ['full']", "allowed: mapping"]),
    "results with odd characters": ("results", "my results; rm", ["results", "my results; rm", "matching"]),
    "folder that is none": (
        "corpora/people",
        MUSE | {"source": "./nowhere"},
        ["corpora.people.source", "./nowhere", "folder"],
    ),
}


def check(config: dict) -> Plan:
    plan = grid.plan(configuration.resolve(config))
    configuration.check_results(plan.config["results"])
    configuration.check_plugins(plan.config)
    origins.check(plan)
    return plan


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_value_is_one_line_that_names_key_value_and_what_is_allowed(case):
    path, value, words = BAD[case]
    with pytest.raises(ValueError) as caught:
        check(changed(path, value))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_the_unchanged_configuration_passes():
    assert len(check(MICRO).cells) == 12


def muse_folder(tmp_path, **files) -> dict:
    """A configuration on a local MUSE folder with the given raw files (text as written)."""
    (tmp_path / "raw").mkdir()
    for name, text in files.items():
        (tmp_path / "raw" / f"{name}.json").write_text(text)
    config = copy.deepcopy(MICRO)
    config["corpora"]["people"] = MUSE | {"source": str(tmp_path), "tasks": [], "splits": ["forget", "retain1"]}
    return config


@pytest.mark.parametrize(
    "files, words",
    [
        ({"forget": '["a"]'}, ["retain1.json is missing"]),
        ({"forget": "[]", "retain1": '["a"]'}, ["forget.json"]),
        ({"forget": "not json", "retain1": '["a"]'}, ["forget.json", "JSON"]),
        ({"forget": '{"a": 1}', "retain1": '["a"]'}, ["forget.json"]),
    ],
    ids=["missing split", "empty file", "unreadable file", "wrong form"],
)
def test_a_wrong_file_of_a_local_corpus_is_one_line(tmp_path, files, words):
    with pytest.raises(ConfigError) as caught:
        check(muse_folder(tmp_path, **files))
    assert "\n" not in str(caught.value) and "corpora.people.source" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_split_that_a_cell_needs_is_left_out(tmp_path):
    config = muse_folder(tmp_path, forget='["a"]', retain1='["a"]')
    config["corpora"]["people"]["splits"] = ["forget"]
    with pytest.raises(ConfigError, match=r"corpora.people.splits: .*lacks 'retain1', which ga with gdr needs"):
        check(config)
    config["sweep"] = [{"corpus": "people", "method": "ga", "regularizer": "none"}]
    assert check(config).cells  # reads no retain text
    config["sweep"][0]["method"] = "rmu"
    with pytest.raises(ConfigError, match="lacks 'retain1', which rmu with none needs"):
        check(config)


def test_a_local_corpus_for_a_model_from_scratch_has_text_to_pretrain_on(tmp_path):
    config = muse_folder(tmp_path, forget='["a"]', retain1='["a"]', pretrain='["a"]')
    config["corpora"]["people"] |= {"model": MICRO["corpora"]["people"]["model"], "max_length": 64}
    with pytest.raises(ConfigError, match=r"corpora.people.splits: .*lacks 'pretrain', which ga with none needs"):
        check(config)
    config["corpora"]["people"]["splits"].append("pretrain")
    assert check(config).cells
    config["sweep"] = [{"corpus": "people", "method": "ga"}]
    config["corpora"]["people"]["splits"].remove("retain1")
    with pytest.raises(ConfigError, match="lacks 'retain1', which ga with none needs"):  # the target is trained with it
        check(config)


def test_hub_source_while_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = changed("corpora/people", MUSE | {"source": "no-such-owner/no-such-set"})
    with pytest.raises(ConfigError, match="corpora.people.source.*HF_HUB_OFFLINE"):
        check(config)
