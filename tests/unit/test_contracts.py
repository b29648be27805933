"""A plugin's file that lacks something is one line before any job, which names the file."""

import pytest

from scripts.core import registry
from scripts.core.planning import contracts

METHOD = 'PARAMETERS = {"beta": {"type": "number", "default": 1.0, "description": "β"}}\nNEEDS = ("logits",)\nKIND = "training"\n'
LOSS = "def loss(model, batch, reference, beta): ...\n"
SCHEME = 'PARAMETERS = {}\nENVIRONMENT = "train"\nARTIFACT = False\nHARDWARE = ["cpu"]\nSOURCE = "here"\n'
LOAD, DESCRIBE = "def load(checkpoint, scheme, device, artifact=None): ...\n", "def describe(model, scheme): ...\n"
METRIC = "PARAMETERS = {}\nVERSION = 1\n"
EVALUATE, RESCORE = "def evaluate(engine, data, settings): ...\n", "def rescore(content): ...\n"
GOOD = {
    "methods": METHOD + LOSS,
    "regularizers": METHOD.replace("beta", "alpha") + "loss = other.loss\n",
    "quantizers": SCHEME + "from other import load\ndescribe, held = other.describe, other.held\n",
    "metrics": METRIC + EVALUATE + RESCORE,
    "corpora": "PARAMETERS: dict = {}\ndef check(settings): ...\ndef build(settings, out): ...\n",
    "figures": 'TABLES = ["scores"]\ndef draw(tables): ...\n',
}
BAD = {
    "no literal": ("methods", 'NEEDS = ()\nKIND = "training"\n' + LOSS, "PARAMETERS is missing"),
    "a literal that is computed": ("methods", METHOD.replace("1.0", "float(1)") + LOSS, "PARAMETERS is computed"),
    "a need that is a text": (
        "methods",
        METHOD.replace('("logits",)', '("logits")') + LOSS,
        "NEEDS: 'logits' is not allowed; allowed: list of one of",
    ),
    "an unknown need": ("methods", METHOD.replace("logits", "logit") + LOSS, "NEEDS[0]: 'logit' is not allowed"),
    "an unknown kind": ("methods", METHOD.replace("training", "train") + LOSS, "KIND: 'train' is not allowed"),
    "no function": ("methods", METHOD, "has no function loss"),
    "no function for its need": ("methods", METHOD.replace("logits", "retain") + LOSS, "has no function keep"),
    "a parameter that the function lacks": ("methods", METHOD + LOSS.replace(", beta", ""), "loss() takes no 'beta'"),
    "an argument that is no parameter": ("methods", METHOD + LOSS.replace("beta", "beta, tau"), "loss() also needs 'tau'"),
    "too few arguments": ("metrics", METRIC + EVALUATE.replace(", settings", "") + RESCORE, "evaluate() takes 2 arguments"),
    "a parameter without default": ("methods", METHOD.replace('"default": 1.0, ', "") + LOSS, "PARAMETERS.beta: "),
    "a default that is not allowed": ("methods", METHOD.replace("1.0", "'a'") + LOSS, "PARAMETERS.beta.default: 'a' is not"),
    "no mapping": ("methods", "PARAMETERS = {'beta': 1.0}" + METHOD[METHOD.index("\n") :] + LOSS, "PARAMETERS.beta: 1.0 is"),
    "a name that is taken": ("methods", (METHOD + LOSS).replace("beta", "batch"), "PARAMETERS.batch: is the name of a key"),
    "the regularizer's weight": ("methods", (METHOD + LOSS).replace("beta", "alpha"), "PARAMETERS.alpha: is the name of a key"),
    "no environment": ("quantizers", SCHEME.replace("ENV", "OF_ENV") + LOAD + DESCRIBE, "ENVIRONMENT is missing"),
    "an environment that is not there": (
        "quantizers",
        SCHEME.replace('"train"', '"gptqq"') + LOAD + DESCRIBE,
        "ENVIRONMENT: 'gptqq' is not allowed; allowed: one of train, autogptq, gguf, gptq,",
    ),
    "no description": ("quantizers", SCHEME + LOAD, "has no function describe"),
    "nothing that makes it": ("quantizers", SCHEME.replace("False", "True") + LOAD + DESCRIBE, "has no function quantize"),
    "a check that can't be called": ("quantizers", SCHEME + LOAD + DESCRIBE + "def check(scheme): ...\n", "check() takes 1"),
    "a metric's check": ("metrics", METRIC + EVALUATE + RESCORE + "def check(settings): ...\n", "check() takes 1 arguments"),
    "no version": ("metrics", "PARAMETERS = {}\n" + EVALUATE + RESCORE, "VERSION is missing"),
    "no rescoring": ("metrics", METRIC + EVALUATE, "has no function rescore"),
    "no table": ("figures", "def draw(tables): ...\n", "TABLES is missing"),
    "a table that is not there": (
        "figures",
        GOOD["figures"].replace("scores", "score"),
        "TABLES[0]: 'score' is not allowed; allowed: one of scores, recovery",
    ),
    "no Python": ("figures", "TABLES = [\n", "line 1: '[' was never closed"),
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that puts a plugin `mine` with some text into a room of an otherwise empty project."""
    monkeypatch.setattr(registry, "SCRIPTS", tmp_path)
    caches = (registry.names, registry.constants, contracts.check)

    def writer(room: str, text: str):
        (tmp_path / room).mkdir(exist_ok=True)
        (tmp_path / room / "mine.py").write_text(text)
        for cache in caches:
            cache.cache_clear()

    yield writer
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("room", registry.ROOMS)
def test_what_a_plugin_may_be(room, write):
    write(room, GOOD[room])
    assert contracts.require(room, "mine", "key") == "mine"


@pytest.mark.parametrize("case", BAD)
def test_what_it_may_not_be(case, write):
    room, text, words = BAD[case]
    write(room, text)
    with pytest.raises(ValueError) as caught:
        contracts.require(room, "mine", "key")
    message = str(caught.value)
    assert message.startswith(f"scripts/{room}/mine.py") and words in message and "\n" not in message


@pytest.mark.parametrize("room", registry.ROOMS)
def test_the_projects_own(room):
    for name in registry.names(room):
        contracts.check(room, name)


def test_what_an_editor_or_a_copy_leaves_is_no_plugin(write, tmp_path):
    write("figures", GOOD["figures"])
    for name in (".#mine.py", "._mine.py"):
        (tmp_path / "figures" / name).symlink_to("nowhere")
    assert registry.names("figures") == ("mine",)


def test_a_file_that_no_sweep_names_is_not_read(write):
    """So that a half-written one stops nobody's sweep."""
    write("methods", "def (")
    with pytest.raises(registry.UnknownName, match="sweep\\[0\\].method: unknown name 'other' in methods; known: mine"):
        contracts.require("methods", "other", "sweep[0].method")
