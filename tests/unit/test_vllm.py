"""vLLM as the engine of evaluation: what it is refused for, what it is asked, how its answers are read, and that it agrees.

The last needs the environment `vllm_cpu` and TEST_ENVIRONMENTS=1: vLLM takes most of a minute to start on two cores.
"""

import copy
import json
import math
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from scripts.core import isolation, registry
from scripts.core.evaluation import vllm_engine
from scripts.core.evaluation.generation import NotFinite
from scripts.core.planning import config as configuration
from scripts.core.planning import grid, serving
from scripts.core.planning.checking import ConfigError
from scripts.core.planning.plan import Plan
from scripts.core.storage import write_json

ROOT = Path(__file__).parents[2]
MICRO = yaml.safe_load((ROOT / "tests/workflow/micro.yaml").read_text())
SCHEMES = {"full": None, "gptq4": {"kind": "gptq", "group": 32}}
ENDS = {2, 9}


def config(**changes) -> dict:
    """The tests' small configuration, evaluated by vLLM on a CPU, with heads of 32."""
    made = copy.deepcopy(MICRO) | {"schemes": SCHEMES, "evaluation": {"engine": "vllm"}, "resources": {"gpus": 0}} | changes
    made["corpora"]["people"]["model"] |= {"hidden": 64, "heads": 2}
    return made


def plan(**changes) -> Plan:
    return grid.plan(configuration.resolve(config(**changes)))


def test_only_scheme_files_of_another_engine_name_one():
    files = {path: json.loads(text) for path, text in plan().texts().items()}
    named = {path for path, content in files.items() if content.get("engine") == "vllm"}
    assert named == {path for path in files if "/evaluations/" in path} != set()
    others = plan(evaluation={}).texts()
    assert {path: text for path, text in plan().texts().items() if path not in named}.items() <= others.items()
    assert all("engine" not in json.loads(text) for text in others.values())


def test_each_scheme_has_a_process_and_the_environment_follows_the_gpus():
    schemes = SCHEMES | {"gptq8": {"kind": "gptq", "bits": 8, "group": 32}}
    resolved = configuration.resolve(config(schemes=schemes, evaluation={"engine": "vllm", "schemes_per_job": 5}))
    assert grid.evaluations(resolved) == [["full"], ["gptq4"], ["gptq8"]]
    assert serving.environment(resolved) == "vllm_cpu"
    assert serving.environment(configuration.resolve(config(resources={"gpus": 2}))) == "vllm"
    assert serving.environment(configuration.resolve(config(evaluation={}))) == "train"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schemes": {"full": None, "fp4": {"kind": "bnb_fp4"}}}, r"can't serve schemes.fp4 \(bnb_fp4\); allowed: transf.* full"),
        ({"schemes": {"full": None, "rtn4": {"kind": "rtn"}}}, r"'vllm' can't serve schemes.rtn4 \(rtn\)"),
        ({"metrics": {"mmlu": {"kind": "lm_eval"}}}, r"'vllm' can't be asked by metrics.mmlu \(lm_eval\)"),
        (
            {"sweep": [{"corpus": "people", "method": "whp", "alpha": 1.0}]},
            "serves one model, and that of whp is made of two",
        ),
        ({"evaluation": {"engine": "vlm"}}, "evaluation.engine: 'vlm' is not allowed; allowed: one of transformers, vllm"),
    ],
)
def test_what_vllm_can_not_do_is_one_error_before_any_job(changes, message):
    made = config(**changes)
    made["corpora"]["people"]["model"]["reinforce"] = {"steps": 2, "lr": "1e-5"}
    with pytest.raises(ConfigError, match=message):
        grid.plan(configuration.resolve(made))


def test_heads_that_the_kernel_lacks_are_refused_on_a_cpu_only():
    made = config()
    made["corpora"]["people"]["model"]["heads"] = 4
    with pytest.raises(ConfigError, match="corpora.people.model.heads: 4 heads of 16 numbers each can't be served"):
        grid.plan(configuration.resolve(copy.deepcopy(made)))
    made["resources"]["gpus"] = 1
    assert grid.plan(configuration.resolve(made)).cells
    shared = {"kind": "scratch", "hidden": 320, "heads": 10, "kv_heads": 1}
    serving.check_heads(shared, "key")  # heads of 32, whoever shares their keys
    serving.check_heads({"kind": "pretrained", "target": "a/b"}, "key")  # of which no sizes are known here


class Words:
    """A tokenizer of numbers: "4 5" ↔ [4, 5]."""

    pad_token_id, bos_token_id = 0, None

    def __call__(self, texts, **options):
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    def batch_decode(self, ids, **options):
        return [" ".join(map(str, one)) for one in ids]


class Recorder:
    """Takes vLLM's place: answers each prompt with given tokens, and log-probabilities of −token / 10."""

    def __init__(self, *answers, broken=None):
        self.answers, self.broken, self.asked = list(answers), broken, []

    def told(self, token):
        return {token: SimpleNamespace(logprob=math.nan if token == self.broken else -token / 10)}

    def generate(self, prompts, parameters, use_tqdm):
        self.asked += [(prompt["prompt_token_ids"], own) for prompt, own in zip(prompts, parameters, strict=True)]
        found = []
        for prompt in prompts:
            tokens = self.answers.pop(0) if self.answers else [1]
            output = SimpleNamespace(token_ids=tokens, logprobs=[self.told(token) for token in tokens])
            told = [None, *(self.told(token) for token in prompt["prompt_token_ids"][1:])]
            found.append(SimpleNamespace(outputs=[output], prompt_logprobs=told))
        return found


@pytest.fixture
def served(monkeypatch):
    """A function (answers, broken) → (engine, recorder)."""
    module = ModuleType("vllm")
    module.SamplingParams, module.TokensPrompt = dict, dict
    monkeypatch.setitem(sys.modules, "vllm", module)

    def make(*answers, broken=None):
        recorder = Recorder(*answers, broken=broken)
        return vllm_engine.Served(recorder, Words(), 12, ENDS, quiet=True), recorder

    return make


def test_generation_asks_with_the_main_paths_ends_and_cuts_as_it_does(served):
    engine, recorder = served([4, 5, 9], [6, 7, 8], [4, 70, 5])
    assert engine.generate(["3", "3 4", "5"], 4, stop=["7"]) == ["4 5", "6 ", "4 "]
    ids, options = zip(*recorder.asked, strict=True)
    assert list(ids) == [[3], [3, 4], [5]]
    wanted = {"max_tokens": 4, "temperature": 0.0, "stop": ["7"], "stop_token_ids": [2, 9], "ignore_eos": True, "logprobs": 0}
    assert all(one == wanted for one in options)
    assert engine.generate([], 4) == [] and engine.generate(["3"], 0) == [""] and len(recorder.asked) == 3


def test_drawn_texts_have_seeds_of_their_own(served):
    engine, recorder = served()
    for seed in (0, 0, 1):
        engine.generate(["3", "3"], 4, temperature=0.7, seed=seed)
    seeds = [options["seed"] for _, options in recorder.asked]
    assert seeds[:2] == seeds[2:4] and len({*seeds}) == 4


def test_no_sampler_is_compiled_and_none_is_needed(served):
    engine, recorder = served()
    engine.generate(["3"], 4, temperature=0.7)
    assert not recorder.asked[0][1].keys() & {"top_k", "top_p"}
    assert vllm_engine.SETTINGS["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    assert vllm_engine.SETTINGS["TRITON_F32_DEFAULT"] == "ieee"  # products of a float32 model are float32


def test_log_probabilities_come_back_in_order_and_as_long_as_asked(served):
    engine, recorder = served()
    found = engine.token_logprobs([[1, 2, 3], [5], [], [4, 1]])
    assert [values.tolist() for values in found] == [pytest.approx([-0.2, -0.3]), [], [], pytest.approx([-0.1])]
    assert [ids for ids, _ in recorder.asked] == [[1, 2, 3], [4, 1]]
    assert recorder.asked[0][1]["prompt_logprobs"] == 0 and recorder.asked[0][1]["max_tokens"] == 1
    assert len(engine.logprobs([" ".join("3" * 40)])[0]) == 11  # cut to the model's 12 positions


def test_a_broken_model_has_no_score(served):
    with pytest.raises(NotFinite, match="logits of prompt 1 are not finite at new token 1"):
        served([4], [4, 6], broken=6)[0].generate(["3", "3"], 2)
    with pytest.raises(NotFinite, match="log-probabilities of text 0"):
        served(broken=6)[0].token_logprobs([[3, 6]])
    with pytest.raises(ValueError, match="prompt 0: 11 tokens do not fit; allowed: at most 10"):
        served()[0].generate([" ".join("3" * 11)], 2)


class Dequantized:
    """As much of a model as is asked for before vLLM takes over."""

    config = SimpleNamespace(max_position_embeddings=12, architectures=["Known", "Unknown"])
    generation_config = SimpleNamespace(bos_token_id=1, eos_token_id=2, temperature=0.9)  # without do_sample, as Llamas have it

    def to(self, dtype):
        return self

    def save_pretrained(self, folder):
        self.generation_config.validate(strict=True)  # as vLLM's transformers does
        (Path(folder) / "model.safetensors").touch()


def test_on_a_gpu_nothing_is_compiled_and_the_hosts_copy_is_gone_when_vllm_starts(served, monkeypatch, tmp_path):
    from scripts.core.weights import models, quantization

    model, started = Dequantized(), []
    held = weakref.ref(model)
    plugin = SimpleNamespace(load=lambda *_, loaded=[model]: loaded.pop(), describe=lambda *_: {"bits_per_weight": 4})
    monkeypatch.setattr(vllm_engine, "SETTINGS", {})  # they stay in the environment
    monkeypatch.setattr(models, "load_tokenizer", lambda checkpoint: Words())
    monkeypatch.setattr(quantization, "stored_dtype", lambda checkpoint: "bfloat16")
    known = {"Known": SimpleNamespace(load_model_cls=lambda: int)}
    sys.modules["vllm"].ModelRegistry = SimpleNamespace(models=known, register_model=known.__setitem__)
    sys.modules["vllm"].LLM = lambda **options: started.append((options, held(), os.listdir(options["model"]), dict(known)))
    sys.modules["vllm"].__version__ = "0"
    del model
    engine, _ = vllm_engine.load(plugin, tmp_path, {"kind": "awq"}, "cuda", 64)
    ((options, alive, files, seen),) = started
    assert options["enforce_eager"] and options["dtype"] == "bfloat16" and engine.positions == 12
    assert alive is None and files == ["model.safetensors"] and seen == {"Known": int}, "vLLM's child need not look at it"


METRICS = {
    "verbmem_f": {"kind": "verbmem", "split": "forget", "new_tokens": 24},
    "knowmem_r": {"kind": "knowmem", "split": "retain", "new_tokens": 8, "shots": 2},
    "privleak": {"kind": "privleak"},
    "perplexity_f": {"kind": "perplexity", "max_tokens": 64},
}
BOUND = 1e-3  # of a log-probability, in nats; measured: 3e-5


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """{(engine, scheme): {metric: content}} of one tiny model whose weights are random but sharp; the AWQ files are made here."""
    from scripts import evaluate, quantize
    from scripts.core.weights.models import build_model, build_tokenizer, save_checkpoint
    from scripts.corpora import synthetic

    if os.environ.get("TEST_ENVIRONMENTS") != "1":
        pytest.skip("needs environment 'vllm_cpu': set TEST_ENVIRONMENTS=1 to run it")
    try:
        python = isolation.interpreter("vllm_cpu")
    except isolation.MissingEnvironment as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("scored")
    people = {"forget_people": 3, "retain_people": 6, "retain2_people": 2, "holdout_people": 3, "pretrain_people": 0}
    chosen = registry.defaults("corpora", "synthetic")
    synthetic.build(chosen | people | {"asked_people": 3, "examples": 2}, folder / "corpus" / "data")
    write_json(folder / "corpus" / "manifest.json", {"files": "digest"})
    tokenizer = build_tokenizer(json.loads((folder / "corpus/data/raw/retain1.json").read_text()), 320, 512)
    shape = {"hidden": 64, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 128, "positions": 512, "initializer_range": 0.3}
    save_checkpoint(build_model(shape, tokenizer), tokenizer, folder / "run" / "checkpoint")
    write_json(folder / "run" / "outcome.json", {"status": "done", "weights": "abc"})
    defaults = registry.defaults("quantizers", "awq")
    schemes = {"full": {"kind": "full"}, "awq": defaults | {"kind": "awq", "group": 32, "samples": 4, "length": 32}}
    common = ["--run", str(folder / "run"), "--corpus", str(folder / "corpus")]
    found = {}
    for engine in ("transformers", "vllm"):
        files = []
        for name, scheme in schemes.items():
            content = {"corpus": {"name": "people"}, "scheme": {"name": name, **scheme}, "metrics": METRICS, "batch_tokens": 2048}
            files.append(str(folder / f"{engine}_{name}.json"))
            write_json(Path(files[-1]), content | ({"engine": engine} if engine == "vllm" else {}))
        if engine == "transformers":
            out = str(folder / "run" / "quantized" / "awq")
            assert quantize.main([*common, "--scheme", files[-1], "--out", out, "--device", "cpu"]) == 0
            assert evaluate.main([*common, "--device", "cpu", "--schemes", *files]) == 0
        else:
            command = [python, "-m", "scripts.evaluate", *common, "--device", "cpu", "--schemes", *files]
            alone = {**os.environ, "PYTHONPATH": ".", "VLLM_CACHE_ROOT": str(folder)}  # vLLM has seen no model yet
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=alone)
            assert done.returncode == 0, done.stderr[-3000:]
        for name in schemes:
            files = (folder / "run" / "eval" / name).glob("*.json")
            found[engine, name] = {path.stem: json.loads(path.read_text()) for path in files}
    return found


@pytest.mark.parametrize("scheme", ["full", "awq"])
def test_scores_agree_with_the_main_path(scored, scheme):
    """Texts are the same to the letter; what comes of log-probabilities lies within BOUND."""
    main, other = scored["transformers", scheme], scored["vllm", scheme]
    assert set(main) == set(other) == set(METRICS)
    for name in METRICS:
        assert main[name]["status"] == other[name]["status"] == "ok"
        assert other[name]["engine"]["name"] == "vllm" and other[name]["fingerprint"] != main[name]["fingerprint"]
        assert other[name]["quantization"] == main[name]["quantization"]
        assert len(main[name]["samples"]) == len(other[name]["samples"]) > 1
    for name in ("verbmem_f", "knowmem_r"):
        assert main[name]["samples"] == other[name]["samples"] and main[name]["value"] == other[name]["value"]
    for name in ("privleak", "perplexity_f"):
        assert close(main[name]["samples"], other[name]["samples"]), name
    assert math.log(other["perplexity_f"]["value"]) == pytest.approx(math.log(main["perplexity_f"]["value"]), abs=BOUND)
    assert other["privleak"]["value"] == pytest.approx(main["privleak"]["value"], abs=0.5)  # ranks of near ties may swap


def close(one, other) -> bool:
    """Whether two nested values are the same but for numbers within BOUND."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return math.isclose(one, other, abs_tol=BOUND, rel_tol=BOUND) if isinstance(one, float) else one == other
