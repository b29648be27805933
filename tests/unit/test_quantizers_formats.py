"""Stored formats: packing against plain Python integers, and a library's bytes against that library's own code."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from scripts.core import registry
from scripts.quantizers import _artifact, _formats, rtn
from scripts.quantizers.gguf import SIZES
from tests.unit.library_environments import READERS, in_environment


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_packing_is_a_dense_stream_of_fields(bits):
    codes = torch.randint(0, 2**bits, (3, 41), generator=torch.Generator().manual_seed(bits))
    words = _formats.pack(codes, bits)
    for row, packed in zip(codes.tolist(), words.tolist(), strict=True):
        stream = sum(code << (i * bits) for i, code in enumerate(row))
        assert [w & 0xFFFFFFFF for w in packed] == [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(len(packed))]
    assert torch.equal(_formats.unpack(words, bits, 41), codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_layout_element_by_element(bits):
    generator = torch.Generator().manual_seed(bits)
    rows, cols, group = 32, 64, 16
    codes = torch.randint(0, 2**bits, (rows, cols), generator=generator)
    zeros = torch.randint(1, 2**bits, (cols // group, rows), generator=generator)
    scales = torch.rand(cols // group, rows, generator=generator).half()
    index = torch.arange(cols)[torch.randperm(cols, generator=generator)] // group
    tensors = {"qweight": _formats.pack(codes, bits).T, "qzeros": _formats.pack(zeros - 1, bits), "scales": scales, "g_idx": index}
    found = _formats.gptq(tensors, bits)
    for r in range(0, rows, 7):
        for c in range(cols):
            g = index[c]
            assert found[r, c] == scales[g, r].float() * (codes[r, c] - zeros[g, r])


def test_a_zero_point_of_0_is_stored_as_the_largest_field():
    """At 3 bits, where fields cross words, each of them wraps by itself."""
    zeros = torch.tensor([[0, 7, 0, 3] * 8])
    tensors = {
        "qzeros": _formats.pack((zeros - 1) & 7, 3),
        "scales": torch.ones(1, 32),
        "g_idx": torch.zeros(32, dtype=torch.int32),
    }
    tensors["qweight"] = _formats.pack(torch.full((32, 32), 5), 3).T
    assert torch.equal(_formats.gptq(tensors, 3), (5.0 - zeros.T).expand(32, 32))


def test_auto_gptq_files_read_exactly(tmp_path):
    """Layers packed by auto-gptq's own code: the format that its users' checkpoints have."""
    code = """
import sys, torch
from auto_gptq.nn_modules.qlinear.qlinear_cuda_old import QuantLinear
from safetensors.torch import save_file
torch.manual_seed(0)
rows, cols, group, out = 64, 128, 32, {}
for bits in (2, 3, 4, 8):
    flat = (torch.randn(rows, cols) * 0.05).reshape(rows, -1, group)
    low, high = flat.amin(2).clamp(max=0), flat.amax(2).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).half().float()
    zero = (-low / scale).round()
    codes = ((flat / scale[..., None]).round() + zero[..., None]).clamp(0, 2**bits - 1)
    plain = torch.nn.Linear(cols, rows, bias=False)
    plain.weight.data = ((codes - zero[..., None]) * scale[..., None]).reshape(rows, cols)
    layer = QuantLinear(bits, group, cols, rows, False, weight_dtype=torch.float16)
    layer.pack(plain, scale, zero, torch.arange(cols) // group)
    out |= {f"{bits}.{part}": getattr(layer, part).contiguous() for part in ("qweight", "qzeros", "scales", "g_idx")}
    out[f"{bits}.expected"] = plain.weight.data
save_file(out, sys.argv[1])
"""
    in_environment("autogptq", code, tmp_path / "layers.safetensors")
    for bits, parts in _artifact.tensors(tmp_path).items():
        expected = parts.pop("expected")
        assert torch.equal(_formats.gptq(parts, int(bits)), expected), bits


@pytest.mark.parametrize("kind", ["q4_0", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"])
def test_blocks_of_every_kind_against_the_gguf_package(tmp_path, kind):
    """Random bytes, read by our reader and by the gguf package's."""
    _, _, size = SIZES[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (6, 4, size), dtype=np.uint8)
    at = {"q6_k": (208,)}.get(kind, (0, 2) if kind in ("q5_1", "q4_k", "q5_k") else (0,))
    for first in at:  # finite fp16 scales
        values = np.linspace(0.01, 1, 24).astype(np.float16)
        blocks.reshape(24, size)[:, first : first + 2] = values.view(np.uint8).reshape(24, 2)
    blocks = blocks.reshape(6, 4 * size)
    save_file({f"layer.{kind}": blocks}, str(tmp_path / "model.safetensors"))
    (tmp_path / "out").mkdir()
    in_environment("gguf", READERS["gguf"], tmp_path, tmp_path / "out" / "model.safetensors")
    expected = _artifact.tensors(tmp_path / "out")["layer"]["weight"]
    assert torch.equal(_formats.gguf(torch.tensor(blocks), kind), expected)


def half(block, at):
    """The fp16 number at a byte of a block."""
    return float(np.frombuffer(bytes(block[at : at + 2]), np.float16)[0])


def signed(byte):
    return byte - 256 if byte > 127 else byte


def nibble(block, at, i, width):
    """Code i of `width` weights in 4-bit halves of bytes: those of the first half of them are the low ones."""
    byte = block[at + i % (width // 2)]
    return byte >> 4 if i >= width // 2 else byte & 15


def subscale(block, j):
    """(scale, minimum) of sub-block j of 8: 6 bits each, the top two bits of the last four in the bytes of the first four."""
    part = block[4:16]
    if j < 4:
        return part[j] & 63, part[j + 4] & 63
    return part[j + 4] & 15 | part[j - 4] >> 6 << 4, part[j + 4] >> 4 | part[j] >> 6 << 4


def of_block(kind, b, i):
    """Weight i of a block of llama.cpp, from its bytes, by the layout that ggml-common.h declares."""
    fifth = {"q5_0": 2, "q5_1": 4}
    if kind == "q8_0":
        return half(b, 0) * signed(b[2 + i])
    if kind == "q4_0":
        return half(b, 0) * (nibble(b, 2, i, 32) - 8)
    if kind in fifth:
        at = fifth[kind]
        code = nibble(b, at + 4, i, 32) | (b[at + i // 8] >> i % 8 & 1) << 4
        return half(b, 0) * (code - 16) if kind == "q5_0" else half(b, 0) * code + half(b, 2)
    if kind in ("q4_k", "q5_k"):
        j, at = i // 32, 16 if kind == "q4_k" else 48
        code = nibble(b, at + i // 64 * 32, i % 64, 64)
        code |= (b[16 + i % 32] >> j & 1) << 4 if kind == "q5_k" else 0
        scale, minimum = subscale(b, j)
        return half(b, 0) * scale * code - half(b, 2) * minimum
    part, place = divmod(i, 128)
    quarter, column = divmod(place, 32)
    low = b[64 * part + place % 64] >> 4 * (quarter // 2) & 15
    high = b[128 + 32 * part + column] >> 2 * quarter & 3
    return half(b, 208) * signed(b[192 + i // 16]) * ((low | high << 4) - 32)


@pytest.mark.parametrize("kind", ["q4_0", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k"])
def test_blocks_of_every_kind_weight_by_weight(kind):
    """What the package says, too, but without it."""
    _, width, size = SIZES[kind]
    blocks = np.random.default_rng(1).integers(0, 256, (2, 3, size), dtype=np.uint8)
    for at in (208,) if kind == "q6_k" else (0, 2):  # finite fp16 numbers; codes in some kinds
        blocks[..., at : at + 2] = np.linspace(0.01, 1, 6).astype(np.float16).view(np.uint8).reshape(2, 3, 2)
    found = _formats.gguf(torch.tensor(blocks.reshape(2, 3 * size)), kind)
    expected = [[of_block(kind, block.tolist(), i) for block in row for i in range(width)] for row in blocks]
    assert found.shape == (2, 3 * width) and torch.allclose(found, torch.tensor(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("zeros, index", [(True, None), (False, None), (True, "drawn"), (True, "unset")])
def test_pack_quantized_element_by_element(bits, zeros, index):
    """Without zero points the grid is symmetric; columns belong to groups in order unless g_idx says others (−1: it is not set)."""
    draw = torch.Generator().manual_seed(bits)
    rows, cols, groups = 6, 32, 4
    codes = torch.randint(0, 2**bits, (rows, cols), generator=draw)
    zero = torch.randint(0, 2**bits, (rows, groups), generator=draw) if zeros else torch.full((rows, groups), 2 ** (bits - 1))
    scale = torch.rand(rows, groups, generator=draw).half()
    parts = _formats.to_pack_quantized(codes, scale, zero, (rows, cols), bits)
    group_of = torch.arange(cols) // 8
    if not zeros:
        del parts["weight_zero_point"]
    if index:
        parts["weight_g_idx"] = group_of = torch.randint(0, groups, (cols,), generator=draw)
    if index == "unset":
        parts["weight_g_idx"], group_of = torch.full((cols,), -1), torch.arange(cols) // 8
    found = _formats.pack_quantized(parts, bits)
    for r in range(rows):
        for c in range(cols):
            g = group_of[c]
            assert found[r, c] == scale[r, g].float() * (codes[r, c] - zero[r, g])


def test_hqq_s_zeros_are_no_whole_numbers():
    draw = torch.Generator().manual_seed(0)
    codes, scale = torch.randint(0, 8, (4, 24), generator=draw), torch.rand(4, 3, generator=draw)
    zero = 8 * torch.rand(4, 3, generator=draw)
    found = _formats.hqq({"codes": _formats.pack(codes, 3), "scale": scale, "zero": zero, "shape": torch.tensor([4, 24])}, 3)
    for r in range(4):
        for c in range(24):
            assert found[r, c] == (codes[r, c] - zero[r, c // 8]) * scale[r, c // 8]


def test_all_that_a_kernel_reads_of_the_quantized_matrices_is_counted(tmp_path):
    """By hand: codes, scales, zero points, and groups that are not just consecutive; the rest as the checkpoint stores it."""
    for name in ("checkpoint", "artifact"):
        (tmp_path / name).mkdir()
    layer, shape = "model.layers.0.mlp.up_proj", (8, 32)
    others = {"model.embed_tokens.weight": np.zeros((10, 32), np.float16), "model.layers.0.norm.weight": np.zeros(32, np.float32)}
    matrices = {f"{layer}.weight": np.zeros(shape, np.float16), "model.layers.1.mlp.up_proj.weight": np.zeros(shape, np.float16)}
    save_file(others | matrices, tmp_path / "checkpoint/model.safetensors")
    groups = np.arange(32, dtype=np.int32) // 8
    counted = {"weight_packed": np.zeros((8, 4), np.int32), "weight_scale": np.zeros((8, 4), np.float16)}
    counted |= {"weight_zero_point": np.zeros((1, 4), np.int32)}
    free = {"weight_g_idx": groups, "weight_shape": np.array(shape), "shape": np.array(shape), "bias": np.zeros(8, np.float16)}
    free |= {"input_scale": np.zeros(32, np.float32), "output_scale": np.zeros(8, np.float32)}
    parts = {f"{layer}.{part}": tensor for part, tensor in (counted | free).items()}
    save_file(parts | others, tmp_path / "artifact/a.safetensors")
    save_file({"model.layers.1.mlp.up_proj.g_idx": groups[::-1].copy()}, tmp_path / "artifact/b.safetensors")
    bits = 8 * (8 * 4 * 4 + 8 * 4 * 2 + 4 * 4 + 32 * 4)
    size = sum(path.stat().st_size for path in (tmp_path / "artifact").iterdir())
    found = _artifact.measure(tmp_path / "checkpoint", tmp_path / "artifact")
    assert found == {"bits_per_weight": bits / 512, "bytes": bits // 8 + 10 * 32 * 2 + 32 * 4, "bytes_on_disk": size}


@pytest.mark.parametrize("layout", ["gptq", "pack_quantized", "hqq"])
def test_stored_codes_are_those_that_were_packed(layout):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (8, 32), generator=generator)
    scale, zero = torch.rand(8, 1, generator=generator).half(), torch.full((8, 1), 8)
    if layout == "gptq":
        parts = {"qweight": _formats.pack(codes, 4).T.contiguous(), "qzeros": _formats.pack(zero.T - 1, 4), "scales": scale.T}
        kind, parts = "gptq", parts | {"g_idx": torch.zeros(32, dtype=torch.int32)}
    elif layout == "hqq":
        kind, parts = "hqq", {"codes": _formats.pack(codes, 4), "scale": scale, "zero": zero, "shape": torch.tensor([8, 32])}
    else:
        kind, parts = "llmc_gptq", _formats.to_pack_quantized(codes, scale, zero, (8, 32), 4)
    values, found, edge = registry.load("quantizers", kind).stored(parts, {"bits": 4})
    assert torch.equal(found, codes)
    assert torch.allclose(values, scale.float() * (codes - 8))
    assert edge == scale.float().median().item() / 2


def test_every_quantizer_tells_its_values():
    for name in registry.names("quantizers"):
        artifact = registry.constants("quantizers", name).get("ARTIFACT")
        assert hasattr(registry.load("quantizers", name), "stored" if artifact else "held"), name


@pytest.mark.parametrize("given", [{}, {"round_zero": True}])
def test_what_hqq_fits_is_stored_and_read(tmp_path, monkeypatch, given):
    """Of matrices inside decoder blocks alone; its fit is told where to begin. Here a stand-in rounds."""
    asked, layer, out = [], "model.layers.0.mlp.up_proj", tmp_path / "out"

    class Quantizer:
        @staticmethod
        def quantize(weight, **settings):
            assert weight.dtype == torch.float32
            asked.append(settings)
            codes, scale, zero = rtn.quantize(weight, 3, "group", 8, symmetric=False)
            return codes.to(torch.uint8), {"scale": scale, "zero": zero + 0.25}

    for name, content in {"hqq": {}, "hqq.core": {}, "hqq.core.quantize": {"Quantizer": Quantizer}}.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    weight = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float16)
    save_file({f"{layer}.weight": weight, "model.embed_tokens.weight": weight}, tmp_path / "model.safetensors")
    out.mkdir()
    plugin, scheme = registry.load("quantizers", "hqq"), {"bits": 3, "group": 8} | given
    plugin.quantize(tmp_path, scheme, [], out, "cpu")
    wanted = {"nbits": 3, "group_size": 8, "axis": 1, "bitpack": False, "device": "cpu", "round_zero": bool(given)}
    assert asked == [wanted] and "round_zero" in registry.parameters("quantizers", "hqq")
    stored = _artifact.tensors(out)
    assert list(stored) == [layer]
    codes, scale, zero = rtn.quantize(torch.tensor(weight), 3, "group", 8, symmetric=False)
    expected = ((codes - (zero + 0.25)) * scale.half().float()).reshape(4, 16)
    monkeypatch.setattr(_artifact, "load", lambda *given: given)
    *told, read = plugin.load("checkpoint", scheme, "cpu", "artifact")
    assert told == ["checkpoint", "artifact", "cpu"] and torch.equal(read(stored[layer]), expected)
