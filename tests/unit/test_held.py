"""What quantizers say that they hold of a matrix (`held` and `stored`), against the models that they load; sums against numpy."""

import numpy as np
import pandas as pd
import pytest
import torch

from scripts.core import registry
from scripts.core.weights import quantization, update
from scripts.quantizers import _artifact, _formats, awq
from tests.unit import updated
from tests.unit.updated import SCHEMES

AWQ = {"kind": "awq", "bits": 4, "group": 32, "clip": True}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Runs `target` and `run`, schemes, a corpus."""
    return updated.build(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def weights(results):
    """({layer: fp32 w_0}, {layer: fp32 w}) of the matrices that schemes quantize."""
    return updated.weights(results)


def values_of(layer):
    """What a loaded layer multiplies with; bitsandbytes' int8 layers hold codes and rows' largest values."""
    if hasattr(layer.weight, "SCB"):
        return layer.weight.data.float() * layer.weight.SCB.reshape(-1, 1) / 127
    return layer.weight.data.float()


@pytest.mark.parametrize("name", SCHEMES)
def test_held_is_what_a_loaded_model_holds(results, weights, name):
    plugin = registry.load("quantizers", SCHEMES[name]["kind"])
    model = plugin.load(results / "run/checkpoint", SCHEMES[name], "cpu")
    layers = dict(quantization.linears(model))
    assert layers.keys() == weights[1].keys()
    for layer, weight in weights[1].items():
        values, codes, edge = plugin.held(weight, SCHEMES[name])
        assert torch.equal(values, values_of(layers[layer])), layer
        if name == "full":
            assert codes is None and edge is None
            continue
        assert codes.shape == weight.shape and 0 < edge < weight.abs().max()
        for code in codes.unique()[:4]:  # within a set that shares a scale, one code is one value
            at = (codes == code)[0, :32]
            assert values[0, :32][at].unique().numel() <= 1
        share = (weight.abs() < edge).float().mean().item()
        innermost = (values.abs() < 0.01 * weight.abs().max()).float().mean().item()  # 0, and FP4's ±1/192
        assert name in ("group", "int8") or share == pytest.approx(innermost, abs=0.08), "the edge bounds the innermost codes"


def test_stored_awq_is_the_loaded_model_with_its_scales_taken_out(results, weights, tmp_path):
    from scripts.core.weights.models import load_tokenizer

    tokens = load_tokenizer(results / "run/checkpoint")("Person 3 lives in town 3. Person 4 lives in town 4.")["input_ids"]
    (tmp_path / "quantization.json").write_text('{"status": "ok"}')
    awq.quantize(results / "run/checkpoint", AWQ, [tokens] * 2, tmp_path, "cpu")
    model, artifact = awq.load(results / "run/checkpoint", AWQ, "cpu", tmp_path), _artifact.Stored(tmp_path)
    layers = dict(quantization.linears(model))
    for layer, weight in weights[1].items():
        parts = artifact.parts(layer)
        values, codes, edge = awq.stored(parts, AWQ)
        scaled = values * parts["input_scale"] / parts["output_scale"][:, None]
        assert torch.allclose(scaled, layers[layer].weight, atol=1e-6)
        assert codes.shape == weight.shape and codes.max() <= 15 and edge > 0
        assert (values - weight).norm() < 0.2 * weight.norm(), "in the checkpoint's own units again"
    del parts["input_scale"]
    with pytest.raises(ValueError, match="no scales beside AWQ's codes"):
        awq.stored(parts, AWQ)


def test_the_edge_of_stored_awq_is_in_the_checkpoint_s_units():
    """Stored four times as large, in two rows eight times: so much too large would half a stored step be."""
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    output = torch.ones(8).index_fill(0, torch.tensor([3, 5]), 0.5)
    codes, scale, zero = awq.rounded(weight * 4 / output[:, None], 4, 16)
    parts = _formats.to_pack_quantized(codes.long(), scale.half(), zero.long(), weight.shape, 4)
    parts |= {"input_scale": torch.full((32,), 4.0), "output_scale": output}
    values, _, edge = awq.stored(parts, AWQ)
    steps = scale.reshape(8, 2) / 4 * output[:, None]
    assert edge == pytest.approx(steps.repeat_interleave(16, 1).median().item() / 2, rel=1e-6)
    assert (values == 0).float().mean().item() == pytest.approx((weight.abs() < edge).float().mean().item(), abs=0.03)


def test_sums_and_ratios_are_their_definitions(weights):
    before, after = (w["model.layers.0.mlp.up_proj"] for w in weights)
    gradient = torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
    plugin = registry.load("quantizers", "bnb_nf4")
    old, new = plugin.held(before, {}), plugin.held(after, {})
    whole = update.of_update(before, after, gradient)
    sums = update.of_scheme(before, after, old, new, gradient)
    w0, w, g = (t.double().numpy() for t in (before, after, gradient))
    d, q = w - w0, (new[0] - old[0]).double().numpy()
    assert whole["n"] == d.size and whole["changed"] == np.count_nonzero(d) > 0
    for found, wanted in ((whole["d2"], (d**2).sum()), (whole["w2"], (w**2).sum()), (whole["gd"], (g * d).sum())):
        assert found == pytest.approx(wanted, rel=1e-6)
    e2 = ((new[0].double().numpy() - w) ** 2).sum()
    for name, wanted in {"q2": (q**2).sum(), "qd": (q * d).sum(), "gq": (g * q).sum(), "e2": e2}.items():
        assert sums[name] == pytest.approx(wanted, rel=1e-6), name
    assert sums["codes"] == int((old[1] != new[1]).sum()) and sums["values"] == np.count_nonzero(q)
    rest = {"d2": 3.0, "gd": 0.5}
    sums["values"] -= 1  # else as many as codes
    ratios = update.ratios(whole, rest, sums)
    p = (q * d).sum() / (d**2).sum()
    assert ratios["projection"] == pytest.approx(p)
    assert ratios["noise"] == pytest.approx(((q - p * d) ** 2).sum() / (d**2).sum())
    assert ratios["snr"] == pytest.approx(p**2 / ratios["noise"])
    shares = {"changed": whole["changed"], "code_changed": sums["codes"], "value_changed": sums["values"]}
    assert [ratios[name] for name in shares] == [count / d.size for count in shares.values()]
    assert ratios["survived"] == pytest.approx((q**2).sum() / (d**2).sum())
    assert ratios["noise_ratio"] == pytest.approx((d**2).sum() / e2)
    assert ratios["relative_step"] == pytest.approx(((d**2).sum() / (w**2).sum()) ** 0.5)
    assert ratios["kept"] == pytest.approx(((q * d).sum() + 3) / ((d**2).sum() + 3))
    assert ratios["first_order"] == pytest.approx(((g * q).sum() + 0.5) / ((g * d).sum() + 0.5))
    moved, crossed = (d != 0) & (w0 != 0), (old[1] != new[1]).numpy()
    assert 0 < (moved & crossed).sum() < moved.sum()
    for name, values in {"all": w0[w0 != 0], "moved": w0[moved], "steps": d[d != 0], "crossed": w0[moved & crossed]}.items():
        wanted = pd.Series(np.floor(2 * np.log2(np.abs(values))).astype(int)).value_counts()
        assert (whole | sums)[name] == {str(k): int(v) for k, v in wanted.items()}, name


def test_extremes_of_what_is_kept():
    """An update below half a step is lost whole, one of whole steps is kept whole, and no quantization keeps everything."""
    before = torch.zeros(4, 32)
    before[:, 0] = 7.0
    scheme = SCHEMES["tensor"]
    for size, kept in ((0.3, 0.0), (2.0, 1.0)):
        after = before.clone()
        after[:, 5] += size
        held = [registry.load("quantizers", "rtn").held(w, scheme) for w in (before, after)]
        sums = update.of_scheme(before, after, *held)
        ratios = update.ratios(update.of_update(before, after), {"d2": 0.0, "gd": None}, sums)
        assert (ratios["projection"], ratios["survived"]) == (kept, kept) and ratios["snr"] is None
        assert sums["codes"] == (4 if kept else 0) and ratios["first_order"] is None
    full = [registry.load("quantizers", "full").held(w, {}) for w in (before, after)]
    assert update.of_scheme(before, after, *full)["codes"] is None
    assert (
        update.ratios(update.of_update(before, after), {"d2": 0.0, "gd": None}, update.of_scheme(before, after, *full))["kept"] == 1
    )
