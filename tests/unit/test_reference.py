"""How θ_0's distributions are kept: which kinds have the same bits as a resident copy, how far off the approximate one is."""

import math
import os

import pytest
import torch

from scripts.core.planning.naming import setting
from scripts.core.training import batching, hyperparameters, losses, unlearner
from scripts.core.training.distributions import Hidden, TablePlan, TopK, mapped
from scripts.core.training.objective import Objective
from scripts.core.training.reference import Reference, serves
from scripts.core.training.unlearning import asked_rows
from scripts.core.weights import models
from tests.unit.test_trajectories import LENGTH, SHAPE, TRAINING, VOCABULARY, Vocabulary

K = 8


@pytest.fixture(scope="module")
def model():
    return models.build_model(SHAPE, Vocabulary(pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCABULARY, (8, LENGTH), generator=generator) for _ in range(2)]


def plan(rows, folder, uses=10.0, k=64):
    return TablePlan({"forget": rows[0], "retain": rows[1]}, 4, str(folder), uses, k)


def batch_of(rows, index):
    ids = rows[torch.tensor(index)]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "index": torch.tensor(index)}


@pytest.mark.parametrize("kind", ["offloaded", "cached", "auto"])
def test_exact_kinds_have_the_bits_of_a_resident_copy_and_keep_the_model_as_it_is(model, rows, tmp_path, kind):
    before = [p.clone() for p in model.parameters()]
    resident = Reference.of(model, [], {"logits"})
    kept = Reference.of(model, [], {"logits"}, kind=kind, table=plan(rows, tmp_path))
    assert kept.facts["reference"] == {"auto": "cached"}.get(kind, kind) and resident.facts["reference"] == "resident"
    for split, index in ((0, [3, 1, 7]), (1, [0, 5, 2, 6]), (1, [4])):
        batch = batch_of(rows[split], index)
        assert torch.equal(kept.logits(batch), resident.logits(batch))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert os.listdir(tmp_path) == []  # the table has no name that could outlive the run


def test_a_table_does_not_follow_the_model_and_knows_only_its_rows(model, rows, tmp_path):
    import copy

    moving = copy.deepcopy(model)
    kept = Hidden.record(moving, {"retain": rows[1]}, 4, tmp_path)
    batch = batch_of(rows[1], [2, 3])
    found = kept.logits(batch)
    with torch.no_grad():
        for p in moving.parameters():
            p.add_(0.1)
    assert torch.equal(kept.logits(batch), found)
    with pytest.raises(RuntimeError, match="not recorded"):
        kept.logits(batch_of(rows[0], [2, 3]))


def test_auto_stays_resident_where_a_table_does_not_pay_or_has_other_bits(model, rows, tmp_path, monkeypatch):
    def kind(uses):
        return Reference.of(model, [], {"logits"}, kind="auto", table=plan(rows, tmp_path, uses)).facts["reference"]

    assert (kind(1.5), kind(2.0)) == ("resident", "cached")
    monkeypatch.setattr(Hidden, "repeats", lambda *arguments: False)
    assert kind(5.0) == "resident"
    assert Reference.of(model, [], {"model"}, kind="auto", table=plan(rows, tmp_path)).facts["reference"] == "resident"


def test_repeats_sees_a_difference_in_the_last_bit(model, rows, tmp_path):
    kept = Hidden.record(model, {"retain": rows[1]}, 4, tmp_path)
    assert kept.repeats(model, 4)
    table = kept.tables["retain"]
    table.mul_(1 + 2.0**-23)
    assert not kept.repeats(model, 4)


def test_topk_gradient_is_within_its_bound_and_all_tokens_are_exact(model, rows, tmp_path):
    batch = batch_of(rows[1], [0, 5, 2])
    exact = Reference.of(model, [], {"distribution"}).logits(batch).log_softmax(-1)
    kept = Reference.of(model, [], {"distribution"}, kind="topk", table=plan(rows, tmp_path, k=K))
    found = kept.logits(batch).double().exp()
    assert torch.allclose(found.sum(-1), torch.ones(()).double(), atol=1e-5)
    outside = 1 - exact.double().exp().topk(K).values.sum(-1)
    error = (found - exact.double().exp()).abs().sum(-1)  # of p − p_θ0, whatever p is
    assert (error <= 2 * outside + 1e-6).all() and error.max() > 1e-3
    mean, most = kept.facts["reference_left_out"]
    assert 0 < mean < most < 1 and most >= outside.max() - 1e-6
    whole = Reference.of(model, [], {"distribution"}, kind="topk", table=plan(rows, tmp_path, k=VOCABULARY))
    assert torch.allclose(whole.logits(batch), exact, atol=1e-6)


def test_probabilities_that_rounding_adds_up_to_more_than_one_leave_no_mass():
    """A memorised token: a negative rest would have a logarithm that is no number."""
    table = TopK({}, 2)
    table.vocabulary = 5
    assert table._outside(torch.tensor([[1e-7, -30.0], [-0.5, -1.5]])).tolist() == [0, pytest.approx(0.170339, abs=1e-6)]


def test_topk_divergence_and_its_gradient_come_near_with_k(model, rows, tmp_path):
    batch = batch_of(rows[1], [0, 5, 2])
    resident = Reference.of(model, [], {"distribution"}).logits(batch)
    moved = (resident + torch.randn(resident.shape, generator=torch.Generator().manual_seed(0)) * 0.1).requires_grad_()

    def gradient(base):
        return torch.autograd.grad(losses.kl_divergence(moved, base, batch), moved)[0]

    exact, errors = gradient(resident), []
    for k in (2, 16, 48, VOCABULARY):
        table = TopK.record(model, {"retain": rows[1]}, 4, tmp_path, k=k)
        errors.append((gradient(table.logits(batch)) - exact).abs().sum().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-5 < errors[0]


def trained(rows, folder, kind, **more):
    """(weights, history) of ten steps of NPO + KLR."""
    network = models.build_model(SHAPE, Vocabulary(pad_token_id=0, bos_token_id=1, eos_token_id=2))
    dataset = batching.ForgetRetainDataset(*rows)
    objective = Objective.of({"name": "npo"}, {"name": "klr"})
    everything = batching.collate([dataset[i] for i in range(len(dataset))])["forget"]
    asked = asked_rows(objective, {"forget": rows[0], "retain1": rows[1]})
    assert set(asked) == {"retain"}
    reference = Reference.of(
        network, [everything], {"sequence_logprob", "distribution"}, kind=kind, table=TablePlan(asked, 4, folder, 10)
    )
    run = unlearner.UnlearnTrainer(network, dataset, TRAINING | more, 0, objective, reference)
    run.run()
    return [p.detach() for p in network.parameters()], run.history


def test_a_training_ends_in_the_same_bits_with_every_exact_kind_and_with_recomputed_activations(rows, tmp_path):
    weights, history = trained(rows, str(tmp_path), "resident")
    for kind, more in (("cached", {}), ("auto", {"gradient_checkpointing": True})):
        others, other_history = trained(rows, str(tmp_path), kind, **more)
        assert all(torch.equal(p, q) for p, q in zip(weights, others, strict=True)) and history == other_history
    eager = trained(rows, str(tmp_path), "topk", reference_k=VOCABULARY)[1]
    assert eager[-1]["total"] == pytest.approx(history[-1]["total"], rel=1e-4)


def test_what_a_kind_can_not_serve_is_one_clear_error(model, rows, tmp_path):
    with pytest.raises(ValueError, match="training.reference: 'topk'.*raw logits.*cached"):
        serves("topk", {"logits"})
    with pytest.raises(ValueError, match="training.reference: 'cached'.*whole model.*offloaded"):
        serves("cached", {"model", "retain"})
    with pytest.raises(ValueError, match="training.reference: 'disk'.*allowed: auto"):
        serves("disk", {"logits"})
    with pytest.raises(OSError):
        mapped(tmp_path, (2**50,), torch.float32)
    with pytest.raises(ValueError, match="no room"):
        plan(rows, "/proc/none").record("cached", model)


def test_options_of_the_step_are_refused_where_they_mean_nothing():
    for more in ({"optimizer": "adamw_8bit", "weights": "bf16"}, {"optimizer": "paged_adamw", "saliency": "row-step"}):
        with pytest.raises(ValueError, match="training.optimizer: '.*adamw"):
            hyperparameters.complete({"lr": "1e-5", **more})
    with pytest.raises(ValueError, match="training.optimizer: 'lion'"):
        hyperparameters.complete({"lr": "1e-5", "optimizer": "lion"})
    from scripts.core.training.optimizer import bitsandbytes_adamw

    groups = [{"params": [torch.nn.Parameter(torch.zeros(8))]}]
    with pytest.raises(ValueError, match="training.optimizer: 'adamw_8bit'.*adamw.*GPU"):
        bitsandbytes_adamw("adamw_8bit", groups, lr=1e-3, eps=1e-8, betas=(0.9, 0.999))
    with pytest.raises(ValueError, match="training.attention: 'flash_attention_2'.*sdpa"):
        models.check_attention("flash_attention_2", "cpu")


def test_paths_tell_what_differs_and_nothing_else():
    cell = {"method": {"name": "ga"}, "regularizer": {"name": "klr", "alpha": 1.0}}
    training = {"lr": "1e-5", "weights": "fp32", "epochs": 5, "max_steps": None}
    plain = setting(cell | {"training": training})
    more = {"reference": "topk", "reference_k": 64, "gradient_checkpointing": True, "optimizer": "paged_adamw_8bit"}
    assert setting(cell | {"training": training | more}) == plain + "_ref-topk64_recompute_paged-adamw-8bit"
    assert setting(cell | {"training": training | {"reference": "cached", "compile": True}}) == plain + "_ref-cached_compiled"
    assert math.isfinite(len(plain))
