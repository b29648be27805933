"""The forecast of which schemes give back what is unlearned: where codes end over what a rate moves, by hand."""

import pytest
import torch
import yaml
from safetensors.torch import save_file

from scripts import foresee
from scripts.quantizers import rtn
from tests.workflow.conftest import MICRO


@pytest.fixture
def model(tmp_path):
    """A folder of weights, two layers that schemes quantize."""
    generator = torch.Generator().manual_seed(0)
    names = [f"model.layers.0.mlp.{name}.weight" for name in ("up_proj", "gate_proj")]
    weights = {name: torch.randn(64, 64, generator=generator) * (i + 1) / 100 for i, name in enumerate(names)}
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path, list(weights.values())


def write(path, **changes):
    path.write_text(yaml.safe_dump(MICRO | changes))
    return str(path)


def test_codes_end_where_the_quantizer_says_over_what_each_rate_moves(model, tmp_path, capsys):
    folder, weights = model
    block = {"corpus": next(iter(MICRO["corpora"])), "method": "ga", "regularizer": "gdr", "max_steps": 2}
    blocks = [block | {"weights": "bf16", "lr": ["2e-5", "7e-6"]}, block | {"weights": "fp32", "lr": "1e-3"}]
    schemes = {name: {"kind": "rtn", "bits": bits, "granularity": "tensor"} for name, bits in (("fine", 8), ("coarse", 4))}
    config = write(tmp_path / "c.yaml", sweep=blocks, schemes=schemes | {"full": {}, "kept": {"kind": "gptq", "group": 64}})
    assert foresee.main(["--config", config, "--model", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["scheme", "code", "ends", "at", "lr", "7e-6", "lr", "2e-5"]
    for line, name in zip(said[1:3], ("coarse", "fine"), strict=True):
        end = sum(rtn.held(weight, schemes[name] | {"kind": "rtn"})[2] for weight in weights) / 2
        wanted = [f"{end:.5f}", f"{end / (256 * 7e-6):.2f}", f"{end / (256 * 2e-5):.2f}"]
        assert line.split() == [name, *wanted]
    assert said[-1] == "Not known before the model is quantized: kept" and "full" not in " ".join(said)


def test_wrong_input_is_one_line(model, tmp_path, capsys):
    folder, _ = model
    groups = {"wide": {"kind": "rtn", "bits": 4, "granularity": "group", "group": 48}}
    config = write(tmp_path / "c.yaml", schemes=groups)
    fp32 = write(tmp_path / "fp32.yaml", unlearning=MICRO["unlearning"] | {"weights": "fp32"})
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/model.safetensors").touch()
    for file, place, said in (
        (config, tmp_path / "cut", "cut/model.safetensors: no whole safetensors file"),
        (config, tmp_path / "none", "none"),
        (config, folder, "schemes.wide: group: 48"),
        (fp32, folder, "nothing is unlearned with bf16 weights"),
    ):
        assert foresee.main(["--config", file, "--model", str(place)]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1, told
