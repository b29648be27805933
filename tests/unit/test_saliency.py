"""SURE: the mask is what its formula says, and not one bit outside it changes."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from scripts.core import storage
from scripts.core.training import batching, hyperparameters, losses, precision, saliency, unlearner
from scripts.core.training.objective import Objective
from scripts.core.training.optimizer import PrecisionAdamW
from scripts.core.training.reference import Reference
from scripts.core.training.resume import ResumeStore
from scripts.core.weights import models

SHAPE = {"kind": "scratch", "hidden": 16, "layers": 2, "heads": 2, "vocab": 300, "positions": 32, "seed": 1}
TRAINING = {"lr": "1e-2", "weights": "bf16", "batch": 3, "max_steps": 5, "percentile": 60.0}


class Vocabulary(list):
    """As much of a tokenizer as building a model asks for."""

    pad_token_id, bos_token_id, eos_token_id = 0, 1, 2

    def __len__(self):
        return 40


def rows(seed, count=7):
    return torch.randint(3, 40, (count, 8), generator=torch.Generator().manual_seed(seed))


def make(kind, method="npo", regularizer="gdr", store=None, **changes):
    """(trainer, mask) of a tiny run."""
    training = {**TRAINING, **changes, "saliency": kind}
    model = models.build_model(SHAPE, Vocabulary())
    if training["weights"] != "fp32":
        precision.to_bf16_grid(model)
    dataset = batching.ForgetRetainDataset(rows(1), rows(2))
    forget = [batching.collate([dataset[i] for i in part])["forget"] for part in ((0, 1, 2), (3, 4), (5, 6))]
    objective = Objective.of({"name": method}, {"name": regularizer})
    reference = Reference.of(model, forget, objective.needs)
    mask = None
    if kind != "none":
        loss = partial(objective.forget, reference=reference)
        mask = saliency.mask_of(model, forget, loss, kind, training["percentile"])
    return unlearner.UnlearnTrainer(model, dataset, training, 0, objective, reference, store=store, mask=mask), mask


def gradient_of_everything():
    """{name: gradient} of NPO's mean loss over all forget chunks in one batch."""
    model = models.build_model(SHAPE, Vocabulary())
    precision.to_bf16_grid(model)
    dataset = batching.ForgetRetainDataset(rows(1), rows(2))
    batch = batching.collate([dataset[i] for i in range(7)])["forget"]
    objective = Objective.of({"name": "npo"}, {"name": "gdr"})
    objective.forget(model, batch, Reference.of(model, [batch], objective.needs)).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_modules_are_ranked_by_the_norm_over_the_whole_forget_set():
    _, mask = make("module")
    expected = {name: g.norm().item() for name, g in gradient_of_everything().items()}
    assert {name: norm.item() for name, norm in mask.norms.items()} == pytest.approx(expected, rel=1e-3)
    assert mask.threshold == pytest.approx(np.percentile(list(expected.values()), 60), rel=1e-3)
    trained = {name for name in expected if mask.trained(name)}
    assert trained == {name for name, norm in expected.items() if norm >= np.percentile(list(expected.values()), 60)}
    assert 0 < len(trained) < len(expected)


def test_one_gradient_is_alive_at_a_time_beside_the_sums():
    model, alive = models.build_model(SHAPE, Vocabulary()), []
    for p in model.parameters():  # these hooks run before the one that takes the gradient away
        p.register_post_accumulate_grad_hook(lambda _: alive.append(sum(q.grad is not None for q in model.parameters())))
    batches = [batching.collate([batching.ForgetRetainDataset(rows(1))[i]])["forget"] for i in (0, 1)]
    found = saliency.forget_gradient(model, batches, lambda model, batch: losses.cross_entropy(losses.forward(model, batch), batch))
    assert alive == [1] * 2 * len(found) and all(p.grad is None for p in model.parameters())
    list(model.parameters())[0].sum().backward()
    assert next(model.parameters()).grad is not None  # no hook is left


@pytest.mark.parametrize("percentile, share", [(0, 1.0), (100, 1 / 21)])
def test_percentiles_at_the_ends(percentile, share):
    _, mask = make("module", percentile=percentile)
    assert np.mean([bool(mask.trained(name)) for name in mask.norms]) == pytest.approx(share)


@pytest.mark.parametrize("weights", ["bf16", "bf16_stochastic", "fp32"])
def test_not_one_bit_outside_the_modules_changes_and_nothing_is_kept_for_them(weights):
    run, mask = make("module", weights=weights)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.run()
    for name, p in run.model.named_parameters():
        assert torch.equal(p, before[name]) == (not mask.trained(name)), name
        assert (p in run.optimizer.optimizer.state) == bool(mask.trained(name)) and p.grad is None


@pytest.mark.parametrize("weights", ["bf16", "bf16_stochastic", "fp32"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_not_one_bit_outside_the_fixed_rows_changes_momentum_included(weights, decay):
    run, mask = make("row-fixed", weights=weights, weight_decay=decay)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.run()
    changed = 0
    for name, p in run.model.named_parameters():
        rows, state = mask.trained(name), run.optimizer.optimizer.state.get(p, {})
        assert torch.equal(p[~rows], before[name][~rows]), name
        changed += (p[rows] != before[name][rows]).sum().item()
        for key in ("exp_avg", "exp_avg_sq"):
            if key in state:
                assert not state[key][~rows].any()
    assert changed > 50


@pytest.mark.parametrize("accumulation", [1, 2])
def test_each_step_trains_the_rows_of_its_own_forget_gradient(accumulation):
    """Seen from outside: in each step exactly the rows at or above the percentile of the forget gradient's norms move."""
    run, _ = make("row-step", weights="fp32", accumulation=accumulation, max_steps=4, batch=2)
    gradients, seen, chosen = {}, [], set()
    inner_step, inner_terms = run.before_step, run.terms

    def terms(model, batch):
        values = list(inner_terms(model, batch))
        names = [name for name, _ in model.named_parameters()]
        loss = run.objective.forget(model, batch["forget"], run.reference)
        for name, g in zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            gradients[name] = gradients.get(name, 0) + g / run.current_gradient_accumulation_steps
        return values

    def before_step():
        norms = {name: g.norm(dim=1) if g.ndim > 1 else g.abs() for name, g in gradients.items()}
        threshold = np.percentile(torch.cat(list(norms.values())).double().numpy(), 60)
        named = dict(run.model.named_parameters())
        seen.append([({n: p.detach().clone() for n, p in named.items()}, {n: v >= threshold for n, v in norms.items()})])
        gradients.clear()
        inner_step()
        for name, p in named.items():
            agree = (run.rows[p] == seen[-1][0][1][name]).double().mean()
            assert agree > 0.8, name  # the two sums differ in their last bits, which may move a row across the threshold
            assert not p.grad[~run.rows[p]].any()
            seen[-1].append(run.rows[p].clone())
        chosen.add(tuple(torch.cat(seen[-1][1:]).tolist()))

    run.before_step, run.terms = before_step, terms
    run.run()
    assert len(seen) == 4 and len(chosen) > 1  # the choice changes from step to step
    states = [dict(step[0][0]) for step in seen] + [{n: p.detach() for n, p in run.model.named_parameters()}]
    for step, (before, after) in enumerate(zip(states, states[1:], strict=False)):
        for mask, name in zip(seen[step][1:], before, strict=True):
            assert torch.equal(before[name][~mask], after[name][~mask]), (step, name)
    assert any(not torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_rows_chosen_in_each_step_get_the_gradient_of_all_terms_and_batches():
    """Where all rows are chosen, setting the forget term's gradient aside changes no step."""
    of_all, of_rows = (
        make(kind, weights="fp32", accumulation=2, batch=2, max_steps=3, percentile=0)[0] for kind in ("none", "row-step")
    )
    for run in (of_all, of_rows):
        run.run()
    assert [s["grad_norm"] for s in of_rows.history] == pytest.approx([s["grad_norm"] for s in of_all.history], rel=1e-4)


class Waits(TorchDispatchMode):
    """Counts what makes a host wait for a GPU: answers whose size depends on numbers, and numbers that are read."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, indices = function.overloadpacket.__name__, args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
        masks = name.startswith("index") and any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices)
        self.count += name in ("nonzero", "_local_scalar_dense") or masks
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind, allowed", [("row-fixed", 2), ("row-step", 3)])
def test_a_step_of_rows_waits_for_the_device_as_often_however_many_tensors_there_are(kind, allowed, monkeypatch):
    run, found = make(kind, max_steps=2)[0], []
    waits, cpu, tolist, step = Waits(), torch.Tensor.cpu, torch.Tensor.tolist, PrecisionAdamW.step

    def told(tensor, read):
        waits.count += 1  # a transfer, which a CPU does without
        return read(tensor)

    def measured(work, *arguments):
        with monkeypatch.context() as patch, waits:
            patch.setattr(torch.Tensor, "cpu", lambda tensor: told(tensor, cpu))
            patch.setattr(torch.Tensor, "tolist", lambda tensor: told(tensor, tolist))
            waits.count = 0
            work(*arguments)
            found.append(waits.count)

    before = run.before_step
    run.before_step = lambda: measured(before)
    monkeypatch.setattr(PrecisionAdamW, "step", lambda optimizer, closure=None: measured(step, optimizer, closure))
    run.run()
    assert [sum(found[i : i + 2]) for i in (0, 2)] == [allowed] * 2 and len(list(run.model.parameters())) > allowed


def test_optimiser_steps_rows_as_it_steps_tensors():
    """A mask of all rows is the unmasked step to the bit; momentum of a row that is left out is as if the step had not been."""
    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    whole, masked, part = (torch.nn.Parameter(start.clone()) for _ in range(3))
    optimizers = [PrecisionAdamW([p], lr=1e-2, moments="bf16") for p in (whole, masked, part)]
    optimizers[1].rows[masked] = torch.ones(6, dtype=torch.bool)
    for step in range(4):
        gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(step + 1))
        for p, optimizer in zip((whole, masked, part), optimizers, strict=True):
            p.grad = gradient.clone()
            optimizers[2].rows[part] = torch.arange(6) % 2 == step % 2
            kept = {k: v.clone() for k, v in optimizer.state[p].items()} if p is part and step else None
            optimizer.step()
            if kept:
                outside = torch.arange(6) % 2 != step % 2
                assert all(torch.equal(optimizer.state[p][k][outside], kept[k][outside]) for k in ("exp_avg", "exp_avg_sq"))
    assert torch.equal(whole, masked) and not torch.equal(whole, part)


def test_double_counts_the_forget_gradient():
    runs = [
        make("module", regularizer=r, weights="fp32", clip=1e30, max_steps=1, sure_double=d)[0]
        for r in ("none", "gdr")
        for d in (0, 1)
    ]
    for run in runs:
        run.run()
    norms = [run.history[0]["grad_norm"] for run in runs]
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-5)
    assert norms[0] != norms[2] and norms[3] != pytest.approx(2 * norms[2], rel=1e-3)
    first, second = runs[2].history[0], runs[3].history[0]
    assert second["total"] - first["total"] == pytest.approx(first["forget"], rel=1e-5)


@pytest.mark.parametrize("kind", ["module", "row-fixed", "row-step"])
def test_killed_and_resumed_ends_in_the_same_bits(kind, tmp_path):
    straight, _ = make(kind)
    straight.run()
    store = ResumeStore(tmp_path / "r", "d")
    cut, _ = make(kind, store=store, save_steps=2)
    cut.run()
    resumed, _ = make(kind, store=store, save_steps=2)
    assert store.latest()[1]["step"] == 4
    assert resumed.run() == 5
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.history == straight.history


@pytest.mark.parametrize("kind", ["module", "row-fixed", "row-step"])
@pytest.mark.parametrize("method, regularizer", [("rmu", "none"), ("ga", "klr"), ("simnpo", "gdr")])
def test_composes_with_any_method_and_regularizer(kind, method, regularizer):
    run, mask = make(kind, method, regularizer, weights="fp32", max_steps=2)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.run()
    assert any(not torch.equal(p, before[name]) for name, p in run.model.named_parameters())


def test_mask_files_hold_the_norms_and_shares_of_the_mask(tmp_path):
    for kind in ("module", "row-fixed"):
        _, mask = make(kind)
        mask.save(tmp_path / kind)
        content = json.loads((tmp_path / kind / "mask.json").read_text())
        assert (content["kind"], content["percentile"], content["threshold"]) == (kind, 60.0, mask.threshold)
        for entry in content["weights"]:
            norms = mask.norms[entry["name"]]
            assert entry["norm"] == pytest.approx(norms.double().norm().item())
            assert entry["trained"] == mask.trained(entry["name"]).double().mean().item()
    stored = load_file(tmp_path / "row-fixed" / "mask.safetensors")
    assert all(torch.equal(stored[name], norms) for name, norms in mask.norms.items())
    assert not (tmp_path / "module" / "mask.safetensors").exists()


def test_a_gradient_that_is_not_finite_is_an_error():
    model = models.build_model(SHAPE, Vocabulary())
    data = batching.collate([batching.ForgetRetainDataset(rows(1))[0]])["forget"]

    def poisoned(model, batch):
        return losses.cross_entropy(losses.forward(model, batch), batch) * float("nan")

    with pytest.raises(ValueError, match="saliency: the forget gradient of .* not finite"):
        saliency.mask_of(model, [data], poisoned, "module", 90)


@pytest.mark.parametrize("change, message", [({"percentile": 101}, "percentile"), ({"saliency": "rows"}, "saliency: 'rows'")])
def test_bad_settings_of_a_mask_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        hyperparameters.complete({"lr": "1e-5"} | change)


def test_whole_forget_set_equals_its_batches():
    """The digest of norms does not depend on how chunks are batched."""
    expected = gradient_of_everything()
    _, mask = make("row-fixed")
    for name, norms in mask.norms.items():
        torch.testing.assert_close(norms, saliency.row_norms(expected[name]), rtol=1e-3, atol=1e-6)
    assert storage.digest(sorted(mask.norms)) == storage.digest(sorted(expected))
