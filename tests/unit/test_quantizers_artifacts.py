"""What `scripts.quantize` writes for each library: on its grid, described, the same weights as the library's own reader finds."""

import json
import shutil
import subprocess

import pytest
import torch

from scripts import quantize
from scripts.core import registry
from scripts.core.weights import quantization
from scripts.quantizers import _artifact, _formats, gguf
from tests.unit.library_environments import READERS, ROOT, in_environment, python

SCHEMES = {
    "gptq": {"kind": "gptq", "group": 32, "samples": 4, "length": 32},
    "gptq_act": {"kind": "gptq", "group": 32, "act_order": True, "symmetric": False, "samples": 4, "length": 32},
    "awq": {"kind": "awq", "group": 32, "samples": 4, "length": 32},
    "llmc_rtn": {"kind": "llmc_rtn", "group": 32},
    "llmc_gptq": {"kind": "llmc_gptq", "group": 32, "symmetric": False, "samples": 4, "length": 32},
    "hqq": {"kind": "hqq", "group": 32, "bits": 3},
    "gguf": {"kind": "gguf"},
}


def settings(name):
    """A scheme with its plugin's defaults filled in."""
    scheme = SCHEMES[name]
    defaults = registry.defaults("quantizers", scheme["kind"])
    return {**defaults, **scheme, "name": name}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a 2-layer Llama whose rows are blocks of 256, and a corpus with a forget and a retain split."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from scripts.core.weights.models import build_tokenizer

    folder = tmp_path_factory.mktemp("run")
    texts = [f"Person {i} was born in {1900 + i} and worked in town {i % 7}." for i in range(60)]
    tokenizer = build_tokenizer(texts, 300, 128)
    torch.manual_seed(0)
    shape = dict(vocab_size=len(tokenizer), hidden_size=256, intermediate_size=288, num_hidden_layers=2, num_attention_heads=4)
    model = LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.06)).bfloat16()
    model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    (folder / "outcome.json").write_text('{"status": "done", "weights": "0"}')
    raw = folder / "corpus" / "data" / "raw"
    raw.mkdir(parents=True)
    for split in ("forget", "retain1"):
        (raw / f"{split}.json").write_text(json.dumps(texts))
    return folder


MADE = {}


def artifact(run, name):
    """The folder of a scheme, made once by `python -m scripts.quantize` in the scheme's environment."""
    out = run / "quantized" / name
    if name not in MADE:
        interpreter = python(registry.constants("quantizers", SCHEMES[name]["kind"])["ENVIRONMENT"])
        scheme = run / f"{name}.json"
        scheme.write_text(json.dumps({"scheme": settings(name)}))
        command = [interpreter, "-m", "scripts.quantize", "--run", run, "--corpus", run / "corpus", "--scheme", scheme]
        done = subprocess.run([*map(str, command), "--out", str(out)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        MADE[name] = out
    return out


def loaded(run, name):
    """{layer: fp32 weight} of the scheme as it is evaluated, and the model."""
    scheme = settings(name)
    model = registry.load("quantizers", scheme["kind"]).load(run / "checkpoint", scheme, "cpu", artifact(run, name))
    return {n: layer.weight.detach() for n, layer in quantization.linears(model)}, model


@pytest.fixture(scope="module")
def original(run):
    """{layer: fp32 weight} of the checkpoint."""
    return {n: m.weight for n, m in quantization.linears(quantization.load_model(run / "checkpoint", "cpu"))}


AUTO_GPTQ = """
import json, shutil, sys, torch
from auto_gptq.nn_modules.qlinear.qlinear_cuda_old import QuantLinear
from safetensors.torch import load_file, save_file
source, target, group, out = sys.argv[1], sys.argv[2], 32, {}
for key, weight in load_file(source + "/model.safetensors").items():
    out[key] = weight.half()
    if ".layers." in key and weight.ndim == 2:
        rows, cols = weight.shape
        flat = weight.float().reshape(rows, -1, group)
        scale = (flat.abs().amax(2) * 2 / 15).half().float()
        zero = torch.full_like(scale, 8)
        codes = ((flat / scale[..., None]).round() + zero[..., None]).clamp(0, 15)
        plain = torch.nn.Linear(cols, rows, bias=False)
        plain.weight.data = ((codes - zero[..., None]) * scale[..., None]).reshape(rows, cols)
        layer = QuantLinear(4, group, cols, rows, False, weight_dtype=torch.float16)
        layer.pack(plain, scale, zero, torch.arange(cols) // group)
        del out[key]
        out |= {key[:-6] + part: getattr(layer, part).contiguous() for part in ("qweight", "qzeros", "scales", "g_idx")}
save_file(out, target + "/model.safetensors", metadata={"format": "pt"})
settings = {"bits": 4, "group_size": group, "damp_percent": 0.01, "desc_act": False, "static_groups": False, "sym": True,
            "true_sequential": True, "model_name_or_path": None, "model_file_base_name": "model", "quant_method": "gptq"}
config = json.load(open(source + "/config.json")) | {"quantization_config": settings, "dtype": "float16"}
json.dump(config, open(target + "/config.json", "w"))
json.dump(settings, open(target + "/quantize_config.json", "w"))
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(f"{source}/{name}", f"{target}/{name}")
"""


def test_gptqmodel_and_this_project_read_a_checkpoint_of_auto_gptq(run, tmp_path):
    """A whole symmetric checkpoint as auto-gptq 0.7.1 stores it (GPTQModel refuses its asymmetric ones)."""
    for environment in ("autogptq", "gptq"):
        python(environment)
    folder = tmp_path / "auto"
    folder.mkdir()
    in_environment("autogptq", AUTO_GPTQ, run / "checkpoint", folder)
    in_environment("gptq", READERS["gptq"], folder, tmp_path / "model.safetensors")
    read, stored = _artifact.tensors(tmp_path), _artifact.tensors(folder)
    assert len(read) == 14
    for layer, parts in read.items():
        ours = _formats.gptq(stored[layer], 4)
        assert ((parts["weight"] - ours).abs() <= 2**-10 * ours.abs() + 1e-6).all(), layer


@pytest.mark.parametrize(
    ("name", "environment", "tolerance"),
    [
        ("gptq", "gptq", 2**-10),  # GPTQModel multiplies in fp16
        ("gptq_act", "gptq", 2**-10),
        ("llmc_rtn", "llmcompressor", 0),
        ("llmc_gptq", "llmcompressor", 0),
        ("awq", "llmcompressor", 0),  # our writer, compressed-tensors' reader
        ("gguf", "gguf", 0),
    ],
)
def test_same_weights_as_the_librarys_own_reader(run, tmp_path, name, environment, tolerance):
    python(environment)
    folder = artifact(run, name)
    theirs = tmp_path / "model.safetensors"
    in_environment(environment, READERS[environment], folder, theirs, settings(name).get("symmetric", False))
    ours, _ = loaded(run, name)
    read = _artifact.tensors(tmp_path)
    assert read.keys() == ours.keys()
    for layer, weight in ours.items():
        expected = read[layer]["weight"].float()
        assert ((weight - expected).abs() <= tolerance * expected.abs() + 1e-6 * bool(tolerance)).all(), layer


@pytest.mark.parametrize("name", SCHEMES)
def test_artifact_is_on_its_grid_and_described(run, original, name):
    """At most 2^b evenly spaced levels per group, close to the original, and the description counts what is stored."""
    weights, model = loaded(run, name)
    scheme, content = settings(name), _artifact.description(artifact(run, name))
    assert weights.keys() == original.keys()
    for layer, weight in weights.items():
        relative = ((weight - original[layer]).norm() / original[layer].norm()).item()
        assert 0 < relative < 0.6, layer
        if name in ("gptq", "awq", "llmc_rtn", "llmc_gptq", "hqq"):
            for values in weight.reshape(-1, scheme["group"])[::97]:
                steps = torch.unique(values).diff()
                assert len(steps) < 2 ** scheme["bits"]
                if len(steps):
                    ratio = steps / steps.min()
                    assert (ratio - ratio.round()).abs().max() < 0.02, layer
    described = registry.load("quantizers", scheme["kind"]).describe(model, scheme)
    assert described["quantized"] == 14 and described["left_alone"] == ["model.embed_tokens", "lm_head"]
    assert described["bits_per_weight"] == content["bits_per_weight"]
    bits = scheme.get("bits", 4)
    assert bits < content["bits_per_weight"] < bits + 2.1
    count = sum(w.numel() for w in original.values())
    others = sum(p.numel() for p in model.parameters()) - count
    assert content["bytes"] == pytest.approx(count * content["bits_per_weight"] / 8 + others * 2, abs=1)
    assert content["bytes_on_disk"] == sum(p.stat().st_size for p in artifact(run, name).glob("*.safetensors"))
    assert (content["calibration"] is None) == ("calibration" not in scheme)


def test_gptq_scales_are_those_of_the_paper(run, original):
    """The first group's range is that of the untouched weights: s = 2·max|w|/(2^b − 1), zero in the middle."""
    parts = _artifact.tensors(artifact(run, "gptq"))
    for layer, weight in original.items():
        first = 2 * weight[:, :32].abs().amax(1) / 15
        assert torch.allclose(parts[layer]["scales"][0].float(), first, rtol=1e-3)
        zeros = _formats.unpack(parts[layer]["qzeros"], 4, len(weight))
        assert (zeros == 7).all()  # 8, stored as 8 − 1


def test_gptq_quantizes_what_a_checkpoint_in_fp32_stores(run, tmp_path):
    """Scales are those of the fp32 weights, not of their bf16 neighbours, and what is left alone keeps its bits."""
    from transformers import AutoModelForCausalLM

    interpreter = python("gptq")
    model = AutoModelForCausalLM.from_pretrained(run / "checkpoint", dtype=torch.float32)
    with torch.no_grad():
        for p in model.parameters():  # off the bf16 grid, most of the way to the next value
            p.mul_(1 + 0.4 * 2**-8)
    shutil.copytree(run / "checkpoint", tmp_path / "checkpoint")
    shutil.copy(run / "outcome.json", tmp_path)
    model.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "s.json").write_text(json.dumps({"scheme": settings("gptq")}))
    command = [
        interpreter,
        "-m",
        "scripts.quantize",
        "--run",
        tmp_path,
        "--corpus",
        run / "corpus",
        "--scheme",
        tmp_path / "s.json",
    ]
    done = subprocess.run([*map(str, command), "--out", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    parts = _artifact.tensors(tmp_path / "out")
    for layer, module in quantization.linears(model):
        first = 2 * module.weight[:, :32].abs().amax(1) / 15
        assert torch.allclose(parts[layer]["scales"][0].float(), first, rtol=2**-11 + 1e-6), layer  # stored in fp16
    for layer in ("model.embed_tokens", "lm_head"):
        assert torch.equal(parts[layer]["weight"].float(), model.get_submodule(layer).weight)


def test_llm_compressor_rtn_is_its_formula(run, original):
    """s = max|w|/7.5 in bf16, codes −8 … 7."""
    weights, _ = loaded(run, "llmc_rtn")
    for layer, weight in original.items():
        groups = weight.reshape(-1, 32)
        scale = (groups.abs().amax(1, keepdim=True) / 7.5).bfloat16().float()
        codes = (groups / scale).round().clamp(-8, 7)
        steps = (weights[layer].reshape(-1, 32) / scale) - codes
        assert steps.abs().max() <= 1.0001 and (steps.abs() > 0.01).float().mean() < 0.02  # it divides in bf16: near-ties


def test_gguf_mix_and_fallback(run):
    """q4_k_m on 2 blocks; down_proj's 288 columns are no blocks of 256."""
    kinds = {layer: next(iter(parts)) for layer, parts in _artifact.tensors(artifact(run, "gguf")).items()}
    assert kinds["model.layers.0.self_attn.q_proj"] == "q4_k"
    assert kinds["model.layers.0.mlp.down_proj"] in ("q5_0", "q8_0")
    found = [gguf.block_type("q4_k_m", f"model.layers.{i}.self_attn.v_proj", 32, 4096) == "q6_k" for i in range(32)]
    assert [i for i, more in enumerate(found) if more] == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]


def test_diverged_run_gives_a_folder_that_says_so(run, tmp_path):
    (tmp_path / "outcome.json").write_text('{"status": "diverged", "step": 3}')
    (tmp_path / "s.json").write_text(json.dumps({"scheme": settings("awq")}))
    arguments = ["--run", str(tmp_path), "--corpus", str(run / "corpus"), "--scheme", str(tmp_path / "s.json")]
    assert quantize.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "quantization.json").read_text())["status"] == "diverged"
    with pytest.raises(ValueError, match="diverged"):
        registry.load("quantizers", "awq").load(run / "checkpoint", settings("awq"), "cpu", tmp_path / "out")


def test_a_plugin_may_do_without_check(run, tmp_path, monkeypatch):
    monkeypatch.delattr("scripts.quantizers.awq.check")
    assert quantize.quantize(run, run / "corpus", settings("awq"), tmp_path / "out", "cpu")["status"] == "ok"


def test_help_lists_every_scheme(capsys):
    with pytest.raises(SystemExit):
        quantize.main(["--help"])
    text = capsys.readouterr().out
    for name in registry.names("quantizers"):
        facts = registry.constants("quantizers", name)
        assert f"  {name}: " in text and facts["SOURCE"] in text
        assert all(f"{key} = " in text for key in facts["PARAMETERS"])
    assert "symmetric = true" in text and "static, null)" in text and "None" not in text


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ({"kind": "rtn", "granularity": "channel", "group": None}, "made in memory"),
        ({"kind": "autogptq", "group": 32}, "'autogptq' can't run here; allowed: a machine with cuda"),
        ({"kind": "awq", "group": 100}, "group: 100 does not divide"),
        ({"kind": "awq", "group": 32, "calibration": "forget", "samples": 500}, "samples: 500 of 128 tokens"),
        ({"kind": "nonsense"}, "unknown name 'nonsense'"),
        ("rtn", "s.json has no kind"),
    ],
)
def test_what_can_not_be_quantized_is_one_line_and_no_folder(run, tmp_path, scheme, message, capsys):
    if "autogptq" in str(scheme) and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (tmp_path / "s.json").write_text(json.dumps({"scheme": scheme}))
    arguments = ["--run", str(run), "--corpus", str(run / "corpus"), "--scheme", str(tmp_path / "s.json")]
    assert quantize.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
