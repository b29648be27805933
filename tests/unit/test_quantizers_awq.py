"""AWQ's search against brute force, and what its scaling must leave unchanged."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.core.weights import quantization
from scripts.quantizers import _artifact, awq


def sample(rows=24, columns=32, tokens=200):
    """(weight, inputs (tokens, columns) with a few large channels)."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(tokens, columns, generator=generator)
    inputs[:, 3] *= 20
    inputs[:, 17] *= 8
    return torch.randn(rows, columns, generator=generator) * 0.05, inputs


def test_loss_with_the_gram_matrix_is_the_loss():
    weight, inputs = sample()
    difference = torch.randn_like(weight) * 0.01
    assert awq.loss(difference, inputs.T @ inputs) == pytest.approx(((inputs @ difference.T) ** 2).sum().item(), rel=1e-4)


def test_search_finds_the_best_alpha_and_beats_plain_rounding():
    weight, inputs = sample()
    inputs[:, 5] = 0  # a channel that the text does not use counts as one of 1e-4
    inputs[:, 9] *= 0.01
    mean, gram = inputs.abs().mean(0), inputs.T @ inputs
    s, alpha, losses = awq.best_scale([weight], gram, mean, 3, 16)
    by_hand = []
    for step in range(20):
        scale = mean.clamp(min=1e-4) ** (step / 20)
        scale = scale / (scale.max() * scale.min()).sqrt()
        rounded = awq.value(*awq.rounded(weight * scale, 3, 16), weight.shape) / scale
        by_hand.append((((inputs @ (rounded - weight).T) ** 2).sum()).item())
    assert losses == pytest.approx(by_hand, rel=1e-3)
    assert alpha == by_hand.index(min(by_hand)) / 20
    assert alpha > 0 and min(losses) < 0.7 * losses[0]
    assert (s.max() * s.min()).item() == pytest.approx(1, rel=1e-4)


def test_clipping_is_the_best_ratio_of_each_group():
    weight, inputs = sample(rows=6)
    weight[2] = weight[2].abs() + 0.01  # ranges that begin at 0
    low, high = awq.best_clip(weight, inputs.T @ inputs, 3, 16)
    flat, ratios = weight.reshape(-1, 16), []
    for index in range(len(flat)):
        own = inputs[:, 16 * (index % 2) : 16 * (index % 2) + 16]
        group, errors = flat[index : index + 1], []
        for step in range(10):
            ratio = 1 - 0.05 * step
            codes = awq.rounded(group, 3, 16, group.min().clamp(max=0) * ratio, group.max().clamp(min=0) * ratio)
            errors.append(((own @ (awq.value(*codes, group.shape) - group).T) ** 2).sum().item())
        best = 1 - 0.05 * errors.index(min(errors))
        ratios.append(best)
        chosen = (high[index] / group.max().clamp(min=0)).item()
        assert low[index].item() == pytest.approx(group.min().clamp(max=0).item() * chosen, rel=1e-5)
        at = round((1 - chosen) / 0.05)
        assert chosen == pytest.approx(best, abs=1e-5) or errors[at] == pytest.approx(min(errors), rel=1e-3)
    assert len(set(ratios)) > 2 and min(ratios) < 0.8


def test_a_range_that_is_given_takes_the_place_of_a_groups_own():
    weight = torch.tensor([[-3.0, -1.0, 1.0, 4.0]])
    low, high = torch.tensor([[-1.0]]), torch.tensor([[2.0]])
    codes, scale, zero = awq.rounded(weight, 2, 4, low, high)
    assert (codes.tolist(), scale.item(), zero.item()) == ([[0, 0, 2, 3]], 1.0, 1.0)  # grid of −1, 0, 1, 2
    assert awq.value(codes, scale, zero, weight.shape).tolist() == [[-1, -1, 1, 2]]


def test_a_range_reaches_to_0_and_its_step_is_stored_in_half_precision():
    ends = ((0.5, 1), (-1.3, -0.4), (-1, 0.7), (0, 0))
    weight = torch.stack([torch.linspace(*pair, 16) for pair in ends])
    codes, scale, zero = awq.rounded(weight, 4, 16)
    for row, (low, high) in enumerate(((0, 1), (-1.3, 0), (-1, 0.7))):
        step = torch.tensor((high - low) / 15).half().float()
        assert scale[row] == step and zero[row] == torch.round(-low / step)
    assert ((awq.value(codes, scale, zero, weight.shape) - weight).abs() <= 0.51 * scale).all() and codes[3].eq(0).all()


def llama(heads=4, bias=False):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    shape = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    more = {"num_key_value_heads": heads, "attention_bias": bias, "mlp_bias": bias}
    model = LlamaForCausalLM(LlamaConfig(**shape, **more, initializer_range=0.2)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.data.uniform_(-0.5, 0.5)
        if "layernorm" in name:
            parameter.data.uniform_(0.5, 1.5)
            parameter.data[[3, 17]] = 8  # a few large channels: what AWQ is for
    return model


@pytest.mark.parametrize("heads, bias", [(4, False), (2, False), (4, True)])
def test_scales_change_nothing_before_rounding(heads, bias):
    """Function-preserving, also where heads share values (then o_proj is left unscaled), and where layers have biases."""
    model, tokens = llama(heads, bias), torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        before = model(tokens).logits
        calls = awq.block_inputs(model, tokens.tolist(), "cpu")
        assert len(calls) == 2 and calls[0][0].shape == (1, 20, 32)
        block = model.model.layers[0]
        inputs = awq.Inputs({name: block.get_submodule(name) for name in set(awq.READS.values())})
        for hidden, named in calls:
            block(hidden, **named)
        seen = inputs.result()
        x = torch.cat([block.input_layernorm(hidden)[0] for hidden, _ in calls])
        for found, wanted in zip(seen["self_attn.q_proj"], (x.T @ x, x.abs().mean(0)), strict=True):
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)
        weight = block.mlp.down_proj.weight.clone()
        scales, _ = awq.scale_block(block, seen, 3, 16)
        assert not torch.equal(weight, block.mlp.down_proj.weight)
        assert torch.allclose(model(tokens).logits, before, atol=2e-4)
        again = awq.Inputs({name: block.get_submodule(name) for name in seen})
        for hidden, named in calls:
            block(hidden, **named)
        for name, (gram, mean) in again.result().items():  # what clips are chosen by
            assert torch.allclose(seen[name][0], gram, rtol=1e-3, atol=1e-3 * gram.max().item()), name
            assert torch.allclose(seen[name][1], mean, rtol=1e-3), name
    assert ("self_attn.o_proj" in scales) == (heads == 4)


def test_whole_model_is_closer_than_rtn_on_its_calibration_text(tmp_path):
    """quantize → load: on the calibration windows AWQ's logits are nearer to full precision than the same grid's RTN."""
    from scripts.quantizers import rtn

    model = llama()
    model.save_pretrained(tmp_path / "checkpoint")
    windows = torch.randint(0, 64, (8, 24), generator=torch.Generator().manual_seed(2)).tolist()
    scheme = {"kind": "awq", "bits": 3, "group": 16, "clip": True}
    out = tmp_path / "out"
    out.mkdir()
    awq.quantize(tmp_path / "checkpoint", scheme, windows, out, "cpu")
    told = {"bits_per_weight": 4.25, "bytes": 1, "bytes_on_disk": 2, "seconds": 0.5, "calibration": None}
    (out / "quantization.json").write_text(json.dumps({"status": "ok", "scheme": scheme} | told))
    found = awq.load(tmp_path / "checkpoint", scheme, "cpu", out)
    assert awq.describe(found, scheme) == told | {"quantized": 14, "left_alone": ["model.embed_tokens", "lm_head"]}
    plain = {"bits": 3, "granularity": "group", "group": 16, "symmetric": False}
    rounded = rtn.load(tmp_path / "checkpoint", plain, "cpu")
    with torch.no_grad():
        full, ours, theirs = (m(torch.tensor(windows)).logits for m in (model, found, rounded))
    assert (ours - full).norm() < 0.9 * (theirs - full).norm()
    again = tmp_path / "again"
    again.mkdir()
    awq.quantize(tmp_path / "checkpoint", scheme, windows, again, "cpu")
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="artifact: missing"):
        awq.load(tmp_path / "checkpoint", scheme, "cpu")
    assert len(list(quantization.linears(found))) == 14
    layer, whole = "model.layers.1.mlp.up_proj", load_file(out / "model.safetensors")
    rest = {key: tensor for key, tensor in whole.items() if not key.startswith(layer)}
    for content in (rest, rest | {f"{layer}.weight": torch.zeros(64, 32)}):
        save_file(content, out / "model.safetensors")
        with pytest.raises(ValueError, match=rf"no quantized weights of {layer} \(1 layers absent\)"):
            awq.load(tmp_path / "checkpoint", scheme, "cpu", out)
    (out / "model.safetensors").unlink()
    for read in (_artifact.tensors, _artifact.Stored):
        with pytest.raises(ValueError, match=r"holds no \*\.safetensors; allowed: a folder that scripts.quantize wrote"):
            read(out)


def test_biases_are_stored_as_scaled_and_what_makes_attention_scores_is_not_clipped(tmp_path, monkeypatch):
    model, best, asked = llama(bias=True), awq.best_clip, []
    monkeypatch.setattr(awq, "best_clip", lambda weight, *more: asked.append(weight) or best(weight, *more))
    model.save_pretrained(tmp_path / "checkpoint")
    windows = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(2)).tolist()
    for clip, count in ((True, 2 * 5), (False, 0)):
        scheme, out = {"bits": 8, "group": 16, "clip": clip}, tmp_path / str(clip)
        out.mkdir()
        del asked[:]
        awq.quantize(tmp_path / "checkpoint", scheme, windows, out, "cpu")
        assert len(asked) == count
    (out / "quantization.json").write_text('{"status": "ok"}')
    with torch.no_grad():
        full, ours = (m(torch.tensor(windows)).logits for m in (model, awq.load(tmp_path / "checkpoint", scheme, "cpu", out)))
    assert (ours - full).norm() < 0.02 * full.norm()
