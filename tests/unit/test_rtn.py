"""RTN against an element-by-element computation in plain Python, and what may be known before any job."""

import numpy as np
import pytest
import torch

from scripts.core.weights import quantization
from scripts.quantizers import rtn

F = np.float32


def brute_force(weight, bits, granularity, group, symmetric):
    """Codes, scale per element and dequantized weights, one element at a time in numpy's fp32 scalars."""
    rows, cols = weight.shape
    cells = {}
    for i in range(rows):
        for j in range(cols):
            key = {"tensor": 0, "channel": i, "group": (i, j // group if group else 0)}[granularity]
            cells.setdefault(key, []).append((i, j))
    codes, out = np.zeros((rows, cols), int), np.zeros((rows, cols), F)
    for members in cells.values():
        values = [F(weight[i, j]) for i, j in members]
        if symmetric:
            limit = 2 ** (bits - 1) - 1
            low, high, zero = -limit, limit, 0
            scale = max(abs(v) for v in values) / F(limit)
        else:
            bottom, top = min([F(0), *values]), max([F(0), *values])
            low, high = 0, 2**bits - 1
            scale = (top - bottom) / F(high)
        if scale == 0:
            scale = F(1)
        if not symmetric:
            zero = int(np.rint(-bottom / scale))
        for (i, j), v in zip(members, values, strict=True):
            codes[i, j] = min(max(int(np.rint(v / scale)) + zero, low), high)
            out[i, j] = F(codes[i, j] - zero) * scale
    return codes, out


def sample():
    """8 × 24 weights with a row and a group of zeros, an outlier, and values on ties."""
    weight = torch.randn(8, 24, generator=torch.Generator().manual_seed(0)) * 0.06
    weight[2] = 0
    weight[3, 8:16] = 0
    weight[4, 5] = 3.0
    weight[5] = torch.tensor([-7.0, -6.5, -3.5, -2.5, -1.5, -0.5, 0, 0.5, 1.5, 2.5, 3.5, 7.0] * 2)
    weight[6] = weight[6].abs() + 0.01
    return weight


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("granularity", "group"), [("tensor", None), ("channel", None), ("group", 8)])
@pytest.mark.parametrize("bits", range(2, 9))
def test_against_brute_force(bits, granularity, group, symmetric):
    weight = sample()
    quantized = rtn.quantize(weight, bits, granularity, group, symmetric)
    codes, expected = brute_force(weight.numpy(), bits, granularity, group, symmetric)
    assert np.array_equal(quantized[0].reshape(weight.shape).numpy(), codes)
    assert np.array_equal(rtn.dequantize(*quantized, weight.shape).numpy(), expected)
    assert len(np.unique(codes)) <= 2**bits - symmetric


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_held_in_bf16_are_rounded_in_fp32(symmetric):
    weight = sample().bfloat16()
    found, wanted = (rtn.quantize(w, 8, "channel", None, symmetric) for w in (weight, weight.float()))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)) and found[1].dtype == torch.float32


def test_ties_go_to_even():
    row = torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.0]])
    codes, scale, _ = rtn.quantize(row, 4, "channel")
    assert scale.item() == 1.0
    assert codes.tolist() == [[7, 0, 2, 2, 0, -2, -2, 0]]


def test_zero_stays_zero_and_extremes_stay_extremes():
    weight = sample()
    for symmetric in (True, False):
        back = rtn.dequantize(*rtn.quantize(weight, 4, "group", 8, symmetric), weight.shape)
        assert (back[weight == 0] == 0).all()
    back = rtn.dequantize(*rtn.quantize(weight, 4, "channel"), weight.shape)
    top = weight.abs().argmax(1, keepdim=True)
    assert torch.allclose(back.gather(1, top), weight.gather(1, top), rtol=1e-6, atol=0)


def test_error_is_at_most_half_a_step():
    weight = sample()
    for bits in range(2, 9):
        codes, scale, zero = rtn.quantize(weight, bits, "group", 8)
        error = (rtn.dequantize(codes, scale, zero, weight.shape) - weight).abs().reshape(-1, 8)
        assert (error <= scale * 0.50001).all()


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ({"granularity": "group", "group": None}, "group: None"),
        ({"granularity": "tensor", "group": 64}, "group: 64 has no meaning"),
        ({"granularity": "group", "group": 96}, "group: 96 does not divide the 256 columns of q_proj"),
        ({"granularity": "group", "group": 256}, "group: 256 does not divide the 704 columns of down_proj; .* e.g. 64$"),
    ],
)
def test_groups_that_do_not_fit_are_refused(scheme, message):
    with pytest.raises(ValueError, match=message):
        rtn.check({"bits": 4, **scheme}, {"hidden": 256, "intermediate": 704})


def test_check_accepts_what_fits_and_what_is_unknown_yet():
    scheme = {"bits": 4, "granularity": "group", "group": 64}
    rtn.check(scheme, {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4, "head_dim": 64})
    rtn.check(scheme, None)
    rtn.check({"bits": 4, "granularity": "channel", "group": None}, {"hidden": 256, "intermediate": 704})


def test_group_that_does_not_divide_a_layer():
    with pytest.raises(ValueError, match="group: 7 does not divide the 24 columns"):
        rtn.quantize(sample(), 4, "group", 7)


@pytest.mark.parametrize(
    "scheme, bits",
    [
        ({"granularity": "tensor"}, 8 * 32 * 4 + 32),
        ({"granularity": "channel"}, 8 * 32 * 4 + 8 * 32),
        ({"granularity": "group", "group": 16}, 8 * 32 * 4 + 16 * 32),
        ({"granularity": "group", "group": 16, "symmetric": False}, 8 * 32 * 4 + 16 * (32 + 4)),
    ],
)
def test_bits_count_scales_and_zero_points(monkeypatch, scheme, bits):
    monkeypatch.setattr(quantization, "report", lambda model, layer_bits: layer_bits(8, 32))
    assert rtn.describe(None, {"bits": 4, **scheme}) == bits
