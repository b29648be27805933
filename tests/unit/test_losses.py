"""Losses against formulas written out in numpy float64, gradients against closed forms; every composition trains."""

import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scripts.core import registry
from scripts.core.planning import contracts
from scripts.core.training import losses
from scripts.core.training.reference import Reference

V = 7


def example(dtype=torch.float32, scale=2.0, seed=0):
    """Logits (3, 5, V) and a batch whose second row is padded on the right and third on the left."""
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(3, 5, V, generator=generator)).to(dtype)
    ids = torch.randint(0, V, (3, 5), generator=generator)
    labels = ids.clone()
    labels[1, 3:] = -100
    labels[2, :2] = -100
    mask = (labels != -100).long()
    return logits, {"input_ids": ids, "attention_mask": mask, "labels": labels, "index": torch.tensor([2, 0, 1])}


def log_softmax(x):
    x = np.asarray(x, dtype=np.float64)
    top = x.max(-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))


def by_hand(logits, batch):
    """Per sequence: the list of log-probabilities of the labels that have a predecessor."""
    table, labels = log_softmax(logits.float().numpy()), batch["labels"].numpy()
    return [[table[b, t - 1, labels[b, t]] for t in range(1, 5) if labels[b, t] != -100] for b in range(3)]


def test_cross_entropy_and_sequence_logprob_equal_the_written_out_sums():
    logits, batch = example()
    rows = by_hand(logits, batch)
    flat = [value for row in rows for value in row]
    assert [len(row) for row in rows] == [4, 2, 3]
    assert losses.cross_entropy(logits, batch).item() == pytest.approx(-sum(flat) / len(flat), rel=1e-6)
    np.testing.assert_allclose(losses.sequence_logprob(logits, batch).numpy(), [sum(row) for row in rows], rtol=1e-6)


def test_two_equally_likely_tokens_cost_log_2():
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [5.0, 1.0]]])
    batch = {"labels": torch.tensor([[0, 1, 0]])}
    assert losses.cross_entropy(logits, batch).item() == pytest.approx(math.log(2), rel=1e-6)
    assert losses.sequence_logprob(logits, batch).item() == pytest.approx(-2 * math.log(2), rel=1e-6)


def test_kl_equals_the_written_out_sum_and_is_directed():
    logits, batch = example()
    reference = example(seed=1)[0]
    p, q = log_softmax(reference.numpy()), log_softmax(logits.numpy())
    seen = [(b, t) for b in range(3) for t in range(4) if batch["labels"][b, t + 1] != -100]
    expected = np.mean([(np.exp(p[b, t]) * (p[b, t] - q[b, t])).sum() for b, t in seen])
    assert losses.kl_divergence(logits, reference, batch).item() == pytest.approx(expected, rel=1e-5)
    assert losses.kl_divergence(reference, logits, batch).item() != pytest.approx(expected, rel=1e-2)
    assert losses.kl_divergence(logits, logits, batch).item() == pytest.approx(0, abs=1e-6)


def test_gradients_are_softmax_minus_target():
    logits, batch = example()
    reference = example(seed=1)[0]
    logits.requires_grad_()
    losses.cross_entropy(logits, batch).backward()
    softmax, target = np.exp(log_softmax(logits.detach().numpy())), losses.targets(batch).numpy()
    seen = (target != -100)[..., None]
    onehot = np.eye(V)[np.maximum(target, 0)]
    np.testing.assert_allclose(logits.grad.numpy(), seen * (softmax - onehot) / seen.sum(), atol=1e-7)
    logits.grad = None
    losses.kl_divergence(logits, reference, batch).backward()
    base = np.exp(log_softmax(reference.numpy()))
    np.testing.assert_allclose(logits.grad.numpy(), seen * (softmax - base) / seen.sum(), atol=1e-7)


def test_slices_do_not_change_the_result_and_logits_are_not_written(monkeypatch):
    logits, batch = example()
    reference, before = example(seed=1)[0], logits.clone()
    fixed = reference.clone()

    def everything():
        leaf = logits.requires_grad_()
        leaf.grad = None
        total = losses.cross_entropy(leaf, batch) + losses.kl_divergence(leaf, reference, batch)
        total.backward()
        return total.item(), leaf.grad.clone()

    whole = everything()
    monkeypatch.setitem(losses.SLICE, "cpu", 2 * V)
    sliced = everything()
    assert whole[0] == sliced[0] and torch.equal(whole[1], sliced[1])
    assert torch.equal(logits.detach(), before) and torch.equal(reference, fixed)


def test_bfloat16_logits_are_summed_in_float32():
    logits, batch = example(torch.bfloat16)
    assert losses.cross_entropy(logits, batch).dtype == torch.float32
    expected = -np.mean([v for row in by_hand(logits, batch) for v in row])
    assert losses.cross_entropy(logits, batch).item() == pytest.approx(expected, rel=1e-6)
    logits.requires_grad_()
    losses.cross_entropy(logits, batch).backward()
    assert logits.grad.dtype == torch.bfloat16


def test_large_logits_stay_finite():
    logits, batch = example(scale=1e4)
    reference = example(scale=1e4, seed=1)[0]
    assert torch.isfinite(losses.cross_entropy(logits, batch))
    assert torch.isfinite(losses.kl_divergence(logits, reference, batch))


def test_a_token_that_the_reference_rules_out_adds_nothing_to_the_divergence():
    logits, batch = example()
    reference = example(seed=1)[0]
    reference[..., 0] = -torch.inf
    p, q = log_softmax(reference[..., 1:].numpy()), log_softmax(logits.numpy())[..., 1:]
    seen = [(b, t) for b in range(3) for t in range(4) if batch["labels"][b, t + 1] != -100]
    expected = np.mean([(np.exp(p[at]) * (p[at] - q[at])).sum() for at in seen])
    assert losses.kl_divergence(logits, reference, batch).item() == pytest.approx(expected, rel=1e-5)


class Toy(torch.nn.Module):
    """A bigram model: enough of a language model for the plugins."""

    def __init__(self, seed=0):
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(
            torch.randn(V, V, generator=torch.Generator().manual_seed(seed)), freeze=False
        )
        self.passes = 0

    def forward(self, input_ids, attention_mask, use_cache):
        self.passes += 1
        return SimpleNamespace(logits=self.table(input_ids))


def references(model, batch):
    return Reference.of(model, [batch], ("sequence_logprob", "model"))


def test_ga_is_minus_cross_entropy():
    model, (_, batch) = Toy(), example()
    value = registry.load("methods", "ga").loss(model, batch, None)
    flat = [v for row in by_hand(model.table(batch["input_ids"]).detach(), batch) for v in row]
    assert value.item() == pytest.approx(np.mean(flat), rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_npo_equals_its_formula_on_sequence_logprobs(beta):
    start, model, (_, batch) = Toy(0), Toy(1), example()
    before = [sum(row) for row in by_hand(start.table(batch["input_ids"]).detach(), batch)]
    after = [sum(row) for row in by_hand(model.table(batch["input_ids"]).detach(), batch)]
    expected = np.mean([2 / beta * math.log1p(math.exp(beta * (a - b))) for a, b in zip(after, before, strict=True)])
    value = registry.load("methods", "npo").loss(model, batch, references(start, batch), beta=beta)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_npo_starts_at_2_over_beta_log_2_with_half_the_slope_of_the_sequence_logprob():
    model, (_, batch) = Toy(), example()
    value = registry.load("methods", "npo").loss(model, batch, references(model, batch), beta=0.1)
    assert value.item() == pytest.approx(20 * math.log(2), rel=1e-6)
    value.backward()
    slope = model.table.weight.grad.clone()
    model.table.weight.grad = None
    losses.sequence_logprob(losses.forward(model, batch), batch).mean().backward()
    # (2/β) · σ(0) · β = 1: at θ_0 NPO is gradient ascent on the sequence log-probability.
    torch.testing.assert_close(slope, model.table.weight.grad, rtol=1e-5, atol=1e-7)


def test_reference_is_indexed_by_row_and_computed_once():
    model, (_, batch) = Toy(), example()
    reference = Reference.of(model, [batch], ("sequence_logprob",))
    passes, expected = model.passes, losses.sequence_logprob(losses.forward(model, batch), batch)
    order = [1, 2, 0]
    shuffled = {key: value[order] for key, value in batch.items()}
    assert torch.equal(reference.sequence_logprob(shuffled), expected[order])
    with torch.no_grad():
        model.table.weight.zero_()
    assert torch.equal(reference.sequence_logprob(batch), expected) and model.passes == passes + 1
    with pytest.raises(RuntimeError, match="NEEDS"):
        reference.logits(batch)
    with pytest.raises(ValueError, match="unknown 'logit'"):
        Reference.of(model, [batch], ("logit",))


def test_klr_is_zero_at_the_start_and_positive_after_a_change():
    model, (_, batch) = Toy(), example()
    reference, klr = references(model, batch), registry.load("regularizers", "klr")
    assert klr.loss(model, batch, reference).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model.table.weight.add_(torch.randn(V, V, generator=torch.Generator().manual_seed(3)))
    assert klr.loss(model, batch, reference).item() > 0.01


def test_gdr_is_cross_entropy_and_none_runs_nothing():
    model, (_, batch) = Toy(), example()
    expected = losses.cross_entropy(losses.forward(model, batch), batch)
    assert registry.load("regularizers", "gdr").loss(model, batch, None).item() == expected.item()
    passes = model.passes
    assert registry.load("regularizers", "none").loss(model, batch, None).item() == 0
    assert model.passes == passes


@pytest.mark.parametrize("method", registry.names("methods"))
@pytest.mark.parametrize("regularizer", registry.names("regularizers"))
def test_every_method_composes_with_every_regularizer(method, regularizer):
    model, (_, batch) = Toy(), example()
    for room, name in (("methods", method), ("regularizers", regularizer)):
        literals = registry.constants(room, name)
        assert set(literals["NEEDS"]) <= {*contracts.NEEDS, "reinforced"} and literals["__doc__"]
        for schema in literals["PARAMETERS"].values():
            assert {"type", "default", "description"} <= set(schema)
    if registry.constants("methods", method)["KIND"] != "training":
        pytest.skip(f"{method} is not a training objective")
    if "retain" in registry.constants("methods", method)["NEEDS"]:
        pytest.skip(f"{method} reads hidden states, which a bigram model lacks; the golden trajectories compose it")
    retain = example(seed=4)[1]
    total = registry.load("methods", method).loss(model, batch, references(model, batch))
    total = total + registry.load("regularizers", regularizer).loss(model, retain, references(model, retain))
    total.backward()
    assert torch.isfinite(total) and model.table.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", registry.names("methods"))
def test_a_call_by_hand_has_the_defaults_of_the_configuration(method):
    plugin = registry.load("methods", method)
    arguments = inspect.signature(plugin.combine if plugin.KIND == "arithmetic" else plugin.loss).parameters
    defaults = {name: schema["default"] for name, schema in plugin.PARAMETERS.items()}
    assert {name: arguments[name].default for name in defaults} == defaults
