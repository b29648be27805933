"""PrecisionAdamW against torch's AdamW and a float64 AdamW in numpy; stochastic rounding; resuming to the bit."""

import copy
import io

import numpy as np
import pytest
import torch

from scripts.core.training import optimizer, precision
from scripts.core.training.optimizer import PrecisionAdamW, random_halves, round_stochastically

SHAPES = ((33, 17), (40,), (3, 5, 7))


def parameters(dtype=torch.float32, grid=True):
    generator = torch.Generator().manual_seed(0)
    values = [0.05 * torch.randn(shape, generator=generator) for shape in SHAPES]
    return [torch.nn.Parameter((v.bfloat16() if grid else v).to(dtype)) for v in values]


def gradients(step, scale=1e-2):
    generator = torch.Generator().manual_seed(100 + step)
    return [(scale * torch.randn(shape, generator=generator)).bfloat16().float() for shape in SHAPES]


def train(params, optimizer, steps, first=0):
    for step in range(first, first + steps):
        for p, g in zip(params, gradients(step), strict=True):
            p.grad = g.to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in params]


def same(a, b):
    return all(torch.equal(x.float(), y.float()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_fp32_is_torch_adamw(decay):
    settings = dict(lr=1e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=decay)
    ours, fused, plain = parameters(grid=False), parameters(grid=False), parameters(grid=False)
    result = train(ours, PrecisionAdamW(ours, **settings), 20)
    assert same(result, train(fused, torch.optim.AdamW(fused, fused=True, **settings), 20))
    for a, b in zip(result, train(plain, torch.optim.AdamW(plain, fused=False, foreach=False, **settings), 20), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("moments", ["bf16", "fp32"])
def test_bf16_is_a_float_step_rounded_once(moments):
    """AdamW in float64 numpy from the stored state of each step; what is stored is rounded to nearest."""
    params = parameters()
    optimizer = PrecisionAdamW(params, lr=1e-4, weight_decay=0.01, weights="bf16", moments=moments)
    for step in range(6):
        before = [p.detach().double().numpy().copy() for p in params]
        state = [
            [optimizer.state[p][k].double().numpy().copy() if optimizer.state[p] else np.zeros(p.shape) for p in params]
            for k in ("exp_avg", "exp_avg_sq")
        ]
        train(params, optimizer, 1, first=step)
        for i, g in enumerate(gradients(step)):
            g = g.double().numpy()
            m, v = 0.9 * state[0][i] + 0.1 * g, 0.999 * state[1][i] + 0.001 * g * g
            scale = np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8
            w = before[i] * (1 - 1e-4 * 0.01) - 1e-4 * (m / (1 - 0.9 ** (step + 1))) / scale
            expected, got = torch.from_numpy(w).bfloat16().float(), params[i].detach()
            # float32 and float64 may fall on either side of a tie: at most one value in a thousand, and by one bf16 step.
            assert (expected != got).float().mean() < 1e-3 + 1 / got.numel()
            torch.testing.assert_close(got, expected, rtol=2**-7, atol=0)
            assert optimizer.state[params[i]]["exp_avg"].dtype == getattr(torch, {"bf16": "bfloat16", "fp32": "float32"}[moments])
    assert same(params, [p.bfloat16() for p in params])


def test_bf16_with_bf16_moments_is_fused_adamw_on_a_bf16_model():
    ours, theirs = parameters(), parameters(torch.bfloat16)
    a = train(ours, PrecisionAdamW(ours, lr=1e-4, weights="bf16", moments="bf16"), 10)
    b = train(theirs, torch.optim.AdamW(theirs, lr=1e-4, weight_decay=0.0, fused=True), 10)
    assert same(a, b)


@pytest.mark.parametrize("weights", ["bf16", "bf16_stochastic"])
@pytest.mark.parametrize("moments", ["bf16", "fp32"])
def test_storage_as_bfloat16_or_as_float32_gives_the_same_bits(weights, moments):
    narrow, wide = parameters(torch.bfloat16), parameters(torch.float32)
    settings = dict(lr=3e-5, weights=weights, moments=moments, seed=5)
    a, b = (train(p, PrecisionAdamW(p, **settings), 10) for p in (narrow, wide))
    assert a[0].dtype == torch.bfloat16 and b[0].dtype == torch.float32 and same(a, b)


def test_small_updates_vanish_in_bf16_and_survive_stochastic_rounding():
    def drift(weights):
        p = torch.nn.Parameter(torch.full((4096,), 0.5))
        optimizer = PrecisionAdamW([p], lr=1e-5, weights=weights)
        for _ in range(50):
            p.grad = torch.ones_like(p)
            optimizer.step()
        return (p.detach() - 0.5).mean().item()

    assert drift("bf16") == 0  # 1e-5 is far below half a bf16 step of 0.5, 2^-10
    assert drift("fp32") == pytest.approx(-5e-4, rel=1e-2)
    assert drift("bf16_stochastic") == pytest.approx(-5e-4, rel=0.1)


def test_stochastic_rounding_is_unbiased_and_keeps_bf16_values():
    value = 0.5 + 0.3 * 2**-8  # three tenths of the way from 0.5 to the next bf16 value, 0.5 + 2^-8
    rounded = round_stochastically(torch.full((200_000,), value), seed=1, step=1, tensor=1)
    assert set(rounded.unique().tolist()) == {0.5, 0.5 + 2**-8}
    assert (rounded > 0.5).float().mean().item() == pytest.approx(0.3, abs=0.005)
    grid = torch.randn(1001).bfloat16().float()
    assert torch.equal(round_stochastically(grid, 1, 1, 1), grid)
    negative = round_stochastically(torch.full((200_000,), -value), seed=2, step=1, tensor=1)
    assert (negative < -0.5).float().mean().item() == pytest.approx(0.3, abs=0.005)


def test_random_halves_are_uniform_and_independent_of_each_other():
    x = random_halves(400_001, seed=3, step=7, tensor=2)
    assert len(x) == 400_001 and 0 <= x.min() and x.max() <= 65535
    counts = torch.bincount(x // 4096, minlength=16).double()
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 45  # chi-square with 15 degrees of freedom, p ≈ 1e-4
    y = random_halves(400_001, seed=3, step=8, tensor=2)
    for a, b in ((x, y), (x[1:], x[:-1]), (x[::2], x[1::2][: len(x[::2])]), (x, random_halves(400_001, 3, 7, 3))):
        n = min(len(a), len(b))
        assert abs(np.corrcoef(a[:n].numpy(), b[:n].numpy())[0, 1]) < 0.008
    assert torch.equal(x, random_halves(400_001, 3, 7, 2))
    assert torch.equal(x[1000:], random_halves(399_001, 3, 7, 2, start=1000))


def test_random_halves_of_more_elements_than_32_bits_count():
    x = random_halves(64, 3, 7, 2, start=2**32 - 32)
    assert torch.equal(x[:32], random_halves(32, 3, 7, 2, start=2**32 - 32)) and torch.equal(
        x[32:], random_halves(32, 3, 7, 2, start=2**32)
    )
    assert not torch.equal(x[:32], x[32:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("moments", ["bf16", "fp32"])
def test_resuming_from_a_saved_state_continues_to_the_bit(dtype, moments):
    settings = dict(lr=3e-5, weights="bf16_stochastic", moments=moments, seed=9)
    straight = parameters(dtype)
    expected = train(straight, PrecisionAdamW(straight, **settings), 8)
    first = parameters(dtype)
    optimizer = PrecisionAdamW(first, **settings)
    train(first, optimizer, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    second = copy.deepcopy(first)
    resumed = PrecisionAdamW(second, **settings)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.state[second[0]]["exp_avg"].dtype == (torch.bfloat16 if moments == "bf16" else torch.float32)
    assert same(train(second, resumed, 3, first=5), expected)


def test_bucketing_does_not_change_a_bit(monkeypatch):
    settings = dict(lr=3e-5, weights="bf16_stochastic", moments="bf16")
    whole, cut = parameters(), parameters()
    expected = train(whole, PrecisionAdamW(whole, **settings), 4)
    monkeypatch.setitem(optimizer.BUCKET, "cpu", 100)
    assert same(train(cut, PrecisionAdamW(cut, **settings), 4), expected)
    monkeypatch.setattr(optimizer, "LARGEST", 100)  # and of a tensor in parts
    parts = parameters()
    assert same(train(parts, PrecisionAdamW(parts, **settings), 4), expected)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(weights="fp16"), "training.weights: 'fp16'"),
        (dict(moments="int8"), "training.moments: 'int8'"),
        (dict(lr=-1.0), "lr -1.0"),
        (dict(lr=float("nan")), "lr nan"),
        (dict(betas=(0.9, 1.0)), "betas"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PrecisionAdamW(parameters(), **settings)


def test_fp32_weights_refuse_bfloat16_tensors():
    with pytest.raises(ValueError, match="can't be kept"):
        PrecisionAdamW(parameters(torch.bfloat16), weights="fp32")


@pytest.mark.parametrize(
    "weights, device, held, cast",
    [
        ("bf16", "cpu", "fp32", False),
        ("bf16", "cuda", "bf16", False),
        ("bf16_stochastic", "cuda", "bf16", False),
        ("fp32", "cpu", "fp32", False),
        ("fp32", "cuda", "fp32", True),
    ],
)
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_what_a_model_is_held_in_and_computes_with(weights, device, held, cast):
    """On a GPU products are bf16 either way; on a CPU they are fp32."""
    assert precision.storage_dtype(weights, device) == held
    context = precision.autocast(weights, device)
    assert isinstance(context, torch.autocast) == cast
    if cast:
        assert (context.device, context.fast_dtype) == ("cuda", torch.bfloat16)


def test_weights_on_the_bf16_grid_are_still_held_as_before():
    layer = torch.nn.Linear(5, 3)
    before, place = layer.weight.detach().clone(), layer.weight.data_ptr()
    precision.to_bf16_grid(layer)
    assert layer.weight.dtype == torch.float32 and layer.weight.data_ptr() == place
    assert layer.weight.equal(before.bfloat16().float()) and not layer.weight.equal(before)


def test_moments_in_paged_memory_are_there_again_after_a_resume(monkeypatch):
    from scripts.quantizers._bnb import import_library

    import_library()
    from bitsandbytes.optim import PagedAdamW32bit

    def buffer(self, p, dtype):
        paged = torch.zeros(p.shape, dtype=dtype)  # as bitsandbytes': of the host, for a parameter that is elsewhere
        paged.is_paged = True
        return paged

    monkeypatch.setattr(PagedAdamW32bit, "get_state_buffer", buffer)
    parameter = torch.nn.Parameter(torch.empty(4, device="meta"))
    optimizers = [optimizer.paging(PagedAdamW32bit)([parameter]) for _ in range(2)]
    optimizers[0].init_state(optimizers[0].param_groups[0], parameter, 0, 0)
    optimizers[0].state[parameter]["state1"] += 2
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    state = optimizers[1].state[parameter]
    assert state["state1"].is_paged and state["state2"].is_paged and state["state1"].tolist() == [2, 2, 2, 2]
