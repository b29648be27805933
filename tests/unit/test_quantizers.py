"""Schemes on a small Llama: dequantized weights against independent computations, layers left alone, bits per
weight.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch

from scripts.core import registry
from scripts.core.weights import quantization

# The 16 values of the published data types: bitsandbytes' FP4 (sign, 2 exponent bits, 1 mantissa bit, divided by 12)
# and QLoRA's NF4 (arXiv 2305.14314, appendix E), by code.
FP4 = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]
FP4 = np.array(FP4 + [-v for v in FP4]) / 12
NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)
INT8 = {"threshold": 6.0}
GROUP = {"bits": 3, "granularity": "group", "group": 32, "symmetric": False}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """{"bf16", "fp32", "tied"}: folders of a 2-layer Llama; the fp32 one holds the bf16 one's values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    shape = dict(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(LlamaConfig(**shape)).bfloat16()
    model.model.layers[0].mlp.up_proj.weight.data[3, :32] = 0
    model.save_pretrained(folder / "bf16")
    model.float().save_pretrained(folder / "fp32")
    LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True)).bfloat16().save_pretrained(folder / "tied")
    return {name: folder / name for name in ("bf16", "fp32", "tied")}


@pytest.fixture(scope="module")
def original(checkpoints):
    """{layer name: fp32 numpy weights} of the layers that schemes quantize."""
    model = quantization.load_model(checkpoints["bf16"], "cpu")
    return {name: layer.weight.numpy().copy() for name, layer in quantization.linears(model)}


def weights(model):
    return {name: layer.weight.detach().float().numpy() for name, layer in quantization.linears(model)}


def test_seven_matrices_of_each_block_are_quantized(original, checkpoints):
    """Seven matrices per block; the head and the embeddings, also when tied, are left alone."""
    per_block = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert [n.rsplit(".", 1)[1] for n in original] == per_block * 2
    for name in ("bf16", "tied"):
        model = quantization.load_model(checkpoints[name], "cpu")
        assert quantization.left_alone(model) == ["model.embed_tokens", "lm_head"]


def test_full_is_what_is_stored(checkpoints, original):
    full = registry.load("quantizers", "full")
    model = full.load(checkpoints["bf16"], {}, "cpu")
    assert not model.training and model.dtype == torch.float32
    report = full.describe(model, {})
    assert report["bits_per_weight"] == 16 and report["quantized"] == 0 and len(report["left_alone"]) == 16
    assert report["bytes"] == 2 * sum(p.numel() for p in model.parameters())
    other = full.load(checkpoints["fp32"], {}, "cpu")
    assert full.describe(other, {})["bits_per_weight"] == 32
    assert all(np.array_equal(a, original[n]) for n, a in weights(other).items())


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("kind", "book"), [("fp4", FP4), ("nf4", NF4)])
def test_4bit_weights_come_from_the_published_code_book(checkpoints, original, kind, book, double):
    plugin = registry.load("quantizers", f"bnb_{kind}")
    model = plugin.load(checkpoints["bf16"], {"double": double}, "cpu")
    for name, found in weights(model).items():
        blocks, found = original[name].reshape(-1, 64), found.reshape(-1, 64)
        scale = np.abs(blocks).max(1, keepdims=True)
        if double:  # 8-bit scales are off by at most their own rounding: compare on the scale that the block really got
            assert np.allclose(np.abs(found).max(1, keepdims=True), scale, rtol=0.06)
            scale = np.abs(found).max(1, keepdims=True)
        scale = np.where(scale == 0, 1, scale)
        distance = np.abs(blocks[..., None] - scale[..., None] * book.astype(np.float32))
        levels = np.abs(found[..., None] / scale[..., None] - book).min(-1)
        assert levels.max() < 1e-6, "not on the grid"
        if not double:
            assert (np.abs(blocks - found) <= distance.min(-1) + 1e-6 * scale).all(), "not the nearest level"
    report = plugin.describe(model, {"double": double})
    total = sum(w.size for w in original.values())
    if double:
        scales = sum(w.size // 64 * 8 + -(-w.size // 64 // 256) * 32 + 32 for w in original.values())
    else:
        scales = total // 64 * 32
    assert report["bits_per_weight"] == pytest.approx(4 + scales / total)
    assert report["quantized"] == 14 and report["left_alone"] == ["model.embed_tokens", "lm_head"]


@pytest.mark.parametrize("kind", ["fp4", "nf4"])
def test_4bit_plain_layers_compute_what_bitsandbytes_computes(checkpoints, kind):
    from bitsandbytes.nn import Linear4bit

    from scripts.quantizers import _bnb

    model = _bnb.load_4bit(checkpoints["bf16"], kind, False, "cpu")
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, Linear4bit) and layer.weight.quant_state.blocksize == _bnb.BLOCK
    layer.support_avx512bf16_for_cpu = False  # where the CPU has such instructions, compare in fp32 all the same
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = layer(x)
    plain = _bnb.materialize(model).model.layers[0].mlp.up_proj
    assert type(plain) is torch.nn.Linear and (plain.in_features, plain.out_features) == (64, 96)
    assert torch.equal(plain(x), theirs)


def test_4bit_plain_layers_keep_their_bias():
    from bitsandbytes.nn import Linear4bit

    from scripts.quantizers import _bnb

    layers = torch.nn.Sequential(*(Linear4bit(64, 96, bias=bias, compute_dtype=torch.float32) for bias in (True, False))).to("cpu")
    x, layers[0].support_avx512bf16_for_cpu = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)), False
    with torch.no_grad():
        theirs = layers[0](x)
    with_bias, without = _bnb.materialize(layers)
    assert with_bias.bias.abs().max() > 0 and torch.equal(with_bias(x), theirs) and without.bias is None


def test_on_a_gpu_4bit_layers_stay_and_compute_in_bf16_as_published(monkeypatch):
    from scripts.quantizers import _bnb

    monkeypatch.setattr(quantization, "load_model", lambda checkpoint, device, config: config)
    monkeypatch.setattr(_bnb, "materialize", lambda model: "plain")
    for device, kind in (("cuda:0", torch.bfloat16), ("cpu", torch.float32)):
        assert _bnb.load_4bit("folder", "nf4", True, device).bnb_4bit_compute_dtype == kind
    assert _bnb.load_usable_4bit("folder", "nf4", {}, "cpu") == "plain"
    assert not _bnb.load_usable_4bit("folder", "nf4", {}, "cuda:0").bnb_4bit_use_double_quant


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("shape", [(64, 96), (64, 32), (40, 8), (7, 10), (5, 3), (3, 192)])
def test_4bit_blocks_run_on_across_rows(shape, double):
    """A matrix means what it means as one row, whatever the CPU; also with a last block that is not full."""
    from scripts.quantizers import _bnb

    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    values, codes, edge = _bnb.held_4bit(weight, "nf4", double)
    row, of_row, _ = _bnb.held_4bit(weight.reshape(1, -1), "nf4", double)
    assert torch.equal(values, row.reshape(shape)) and torch.equal(codes, of_row.reshape(shape))
    blocks = torch.nn.functional.pad(weight.reshape(-1), (0, -weight.numel() % _bnb.BLOCK)).reshape(-1, _bnb.BLOCK)
    assert edge == pytest.approx((NF4[8] - NF4[6]) / 4 * blocks.abs().amax(1).median().item(), rel=1e-6)
    scales = blocks.abs().amax(1, keepdim=True).expand_as(blocks).reshape(-1)[: weight.numel()]
    expected = scales * torch.tensor(NF4, dtype=torch.float32)[codes.reshape(-1).long()]
    assert np.allclose(values.reshape(-1), expected, rtol=0.06 if double else 1e-6, atol=1e-3 if double else 1e-7)


def test_fp4_has_one_zero_and_its_innermost_codes_end_where_the_next_begin():
    from scripts.quantizers import _bnb

    small = (FP4[1] + FP4[6]) / 2
    weight = torch.tensor([[-1.0, 0, -0.0, 1e-4, -1e-4, 0.99 * small, -0.99 * small, 1.01 * small] * 8])
    _, codes, edge = _bnb.held_4bit(weight, "fp4", False)
    assert edge == pytest.approx(small)
    assert codes[0, :8].tolist() == [11, 0, 0, 0, 0, 1, 9, 6]


@pytest.mark.parametrize("name", ["bnb_fp4", "bnb_nf4", "bnb_int8", "rtn"])
def test_codes_do_not_depend_on_the_stored_type(checkpoints, name):
    """The same values stored in bf16 and in fp32 quantize alike."""
    plugin = registry.load("quantizers", name)
    scheme = GROUP if name == "rtn" else {}
    models = [plugin.load(checkpoints[stored], scheme, "cpu") for stored in ("bf16", "fp32")]
    first, second = (weights(m) for m in models)
    assert all(np.array_equal(first[n], second[n]) for n in first)


def test_int8_has_one_scale_per_row_and_the_nearest_steps(checkpoints, original):
    plugin = registry.load("quantizers", "bnb_int8")
    model = plugin.load(checkpoints["bf16"], INT8, "cpu")
    for name, layer in quantization.linears(model):
        expected = original[name].astype(np.float16).astype(np.float32)
        largest = np.abs(expected).max(1)
        assert np.array_equal(layer.weight.SCB.numpy().ravel(), largest)
        steps = layer.weight.data.numpy().astype(np.float32) - expected * 127 / largest[:, None]
        assert np.abs(steps).max() <= 0.5 + 0.05  # they multiply by 127/max in fp16, so ties are not exact
    report = plugin.describe(model, INT8)
    total, rows = sum(w.size for w in original.values()), sum(len(w) for w in original.values())
    assert report["bits_per_weight"] == pytest.approx(8 + 32 * rows / total)
    logits = model(torch.arange(12).reshape(1, 12)).logits
    plain = quantization.load_model(checkpoints["bf16"], "cpu")(torch.arange(12).reshape(1, 12)).logits
    error = ((logits - plain).norm() / plain.norm()).item()
    assert 0 < error < 0.05


def test_rtn_on_a_model(checkpoints, original):
    from scripts.quantizers import rtn

    model = rtn.load(checkpoints["bf16"], GROUP, "cpu")
    for name, found in weights(model).items():
        codes = rtn.quantize(torch.tensor(original[name]), 3, "group", 32, False)
        assert np.array_equal(rtn.dequantize(*codes, found.shape).numpy(), found)
        assert len(np.unique(found.reshape(-1, 32)[0])) <= 8
    untouched = quantization.load_model(checkpoints["bf16"], "cpu")
    assert torch.equal(model.lm_head.weight, untouched.lm_head.weight)
    assert torch.equal(model.model.embed_tokens.weight, untouched.model.embed_tokens.weight)
    report = rtn.describe(model, GROUP)
    assert report["bits_per_weight"] == pytest.approx(3 + (32 + 3) / 32)
    others = sum(p.numel() for p in model.parameters()) - sum(w.size for w in original.values())
    assert report["bytes"] == sum(w.size for w in original.values()) * (3 + 35 / 32) / 8 + others * 2
    assert rtn.describe(model, {"bits": 4, "granularity": "tensor", "group": None})["bits_per_weight"] < 4.01


@pytest.mark.parametrize("name", ["full", "bnb_int8", "bnb_fp4", "bnb_nf4", "rtn"])
def test_every_scheme_in_memory_gives_a_model_that_generates(checkpoints, name):
    plugin = registry.load("quantizers", name)
    model = plugin.load(checkpoints["bf16"], registry.defaults("quantizers", name), "cpu")
    out = model.generate(torch.arange(8).reshape(2, 4), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert out.shape[0] == 2 and out.shape[1] > 4
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \*.safetensors"):
        quantization.stored_dtype(tmp_path)


def test_literals_and_checks_need_no_torch():
    """Login nodes read literals and run every plugin's `check`."""
    code = (
        "import sys\nfrom scripts.core import registry\n"
        "for name in registry.names('quantizers'):\n"
        "    constants = registry.constants('quantizers', name)\n"
        "    assert {'PARAMETERS', 'ENVIRONMENT', 'ARTIFACT', 'HARDWARE', 'SOURCE'} <= constants.keys(), name\n"
        "    scheme = {k: v.get('default') for k, v in constants['PARAMETERS'].items()}\n"
        "    plugin = registry.load('quantizers', name)\n"
        "    if hasattr(plugin, 'check'):\n"
        "        plugin.check(scheme, None)\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=registry.SCRIPTS.parent)
