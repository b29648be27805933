"""Environments: found, missing, out of date, made; and the same pins for conda and venv."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from scripts import environments
from scripts.core import isolation, registry
from scripts.core.planning import serving
from scripts.core.planning.checking import ConfigError
from scripts.core.planning.config import check_hardware


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Environments in a temporary folder, with pins that need no network."""
    (tmp_path / "pins").mkdir()
    (tmp_path / "pins" / "train.txt").write_text("")
    (tmp_path / "pins" / "small.txt").write_text("# nothing to install\n")
    (tmp_path / "pins" / "broken.txt").write_text("./no-such-package-here\n")
    monkeypatch.setattr(isolation, "PINS", tmp_path / "pins")
    monkeypatch.setenv("UNLEARNING_ENVS", str(tmp_path / "envs"))
    return tmp_path


def test_missing_then_made_then_out_of_date(place, capsys):
    with pytest.raises(
        isolation.MissingEnvironment, match="'small' is missing; make it with `python -m scripts.environments --make small`"
    ):
        isolation.interpreter("small")
    assert environments.main(["--make", "small"]) == 0
    assert isolation.interpreter("small") == str(place / "envs" / "small" / "bin" / "python")
    assert environments.main([]) == 0
    assert re.search(r"small +ready", capsys.readouterr().out)
    (place / "pins" / "small.txt").write_text("# other pins\n")
    with pytest.raises(isolation.MissingEnvironment, match="'small' is out of date"):
        isolation.interpreter("small")


def test_what_is_ready_is_not_made_again_and_what_is_broken_is_made_from_nothing(place, monkeypatch):
    """With the interpreter that this one's venv was made with, unless another is named."""
    calls, python = [], place / "envs/small/bin/python"

    def run(command, **_):
        calls.append(command)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "_base_executable", "/base/python")
    python.parent.mkdir(parents=True)
    for left in (place / "envs/small/left", python):  # of one that was cut off
        left.touch()
    assert isolation.state("small") == "missing"
    isolation.make("small", "/opt/python")
    assert calls[0] == ["/opt/python", "-m", "venv", str(place / "envs/small")] and not (place / "envs/small/left").exists()
    assert calls[1][:4] == [str(python), "-m", "pip", "install"] and calls[1][-2:] == ["-r", str(place / "pins/small.txt")]
    isolation.make("small")
    assert len(calls) == 2 and isolation.state("small") == "ready"
    python.unlink()
    assert isolation.state("small") == "missing"
    isolation.make("small")
    assert calls[2][0] == "/base/python" and isolation.state("small") == "ready"
    assert isolation.interpreter("train") == sys.executable
    monkeypatch.delenv("UNLEARNING_ENVS")
    assert isolation.folder("small") == isolation.ROOT / ".envs/small"


def test_what_pip_refuses_leaves_nothing_behind(place, capsys):
    assert environments.main(["--make", "broken"]) == 2
    assert "pip could not install envs/broken.txt" in capsys.readouterr().err
    assert isolation.state("broken") == "missing" and not (place / "envs" / "broken").exists()


def test_an_unknown_environment_is_one_line_with_the_known_ones(place, capsys):
    assert environments.main(["--make", "nonsense"]) == 2
    assert "unknown name 'nonsense'; allowed: train, broken, small" in capsys.readouterr().err


def test_every_environment_is_pinned_once_for_conda_and_venv():
    needed = {registry.constants("quantizers", name)["ENVIRONMENT"] for name in registry.names("quantizers")}
    for gpus in (0, 1):
        needed.add(serving.environment({"evaluation": {"engine": "vllm"}, "resources": {"gpus": gpus}}))
    assert needed - {isolation.MAIN} == set(isolation.names())
    for name in (isolation.MAIN, *isolation.names()):
        lines = [line for line in isolation.pins(name).read_text().splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line) for line in lines), name
        assert "torch==2.13.0" in lines or not any(line.startswith("torch==") for line in lines)
        written = (isolation.PINS / f"{name}.yaml").read_text()
        assert written == isolation.conda_file(name), f"envs/{name}.txt has changed: run python -m scripts.environments --conda"
        # Snakemake copies the file before conda reads it: no path in it may be relative.
        assert yaml.safe_load(written)["dependencies"][-1] == {"pip": lines}


def test_pins_contradict_the_main_environment():
    """The reason for more than one environment."""

    def version(environment, package):
        found = re.search(rf"(?mi)^{package}==(\S+)", isolation.pins(environment).read_text())
        return found and found[1]

    assert version("train", "transformers") != version("llmcompressor", "transformers") is not None
    assert int(version("gptq", "packaging").split(".")[0]) > int(version("train", "packaging").split(".")[0])


def test_hardware_that_is_not_there():
    with pytest.raises(ConfigError, match="schemes.old: autogptq needs cuda and jobs get no GPU"):
        check_hardware("autogptq", 0, "schemes.old")
    check_hardware("autogptq", 1, "schemes.old")
    check_hardware("gguf", 0, "schemes.g")


@pytest.mark.parametrize("kind", [k for k in registry.names("quantizers") if "group" in registry.parameters("quantizers", k)])
def test_group_that_does_not_divide(kind):
    scheme = registry.defaults("quantizers", kind) | {"group": 96}
    if "granularity" in scheme:
        scheme["granularity"] = "group"
    with pytest.raises(ValueError, match="group: 96 does not divide the 256 columns of q_proj"):
        registry.load("quantizers", kind).check(scheme, {"hidden": 256, "intermediate": 704})


def test_a_quantizing_job_needs_nothing_of_the_configurations_libraries():
    """Environments of quantizers have neither jsonschema nor Snakemake."""
    code = (
        "import sys\nsys.modules |= {'jsonschema': None, 'snakemake': None, 'pandas': None}\n"
        "from scripts import quantize\nfrom scripts.core import registry\n"
        "for name in registry.names('quantizers'):\n"
        "    registry.require('quantizers', name, 'scheme.kind'), registry.load('quantizers', name)\n"
        "assert quantize.catalogue()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=registry.SCRIPTS.parent)


def test_llm_compressor_writes_models_whose_generation_settings_its_transformers_would_refuse(tmp_path, monkeypatch):
    """A Llama's temperature without do_sample; the library takes no part, and the main environment's transformers would save it."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    for name, made in (("", "oneshot"), (".modifiers.gptq", "GPTQModifier"), (".modifiers.quantization", "QuantizationModifier")):
        monkeypatch.setitem(sys.modules, f"llmcompressor{name}", SimpleNamespace(**{made: lambda **options: None}))
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(tmp_path)
    said = '{"eos_token_id": [2, 9], "temperature": 0.9, "top_p": 0.6, "pad_token_id": -1}'
    (tmp_path / "generation_config.json").write_text(said)
    scheme = registry.defaults("quantizers", "llmc_rtn")
    registry.load("quantizers", "llmc_rtn").quantize(tmp_path, scheme, [], tmp_path / "out", "cpu")
    written = GenerationConfig.from_pretrained(tmp_path / "out")
    written.validate(strict=True)
    assert written.eos_token_id == [2, 9] and written.temperature is None
