"""Training as a whole on a tiny model: data order, composition, resuming to the bit, divergence with its step, and the programs."""

import gc
import os
import signal

import pytest
import torch

from scripts.core.training import batching, hyperparameters, losses, precision, trainer, unlearner
from scripts.core.training.objective import Objective
from scripts.core.training.optimizer import PrecisionAdamW
from scripts.core.training.reference import Reference
from scripts.core.training.resume import ResumeStore
from scripts.core.weights import models

SPEC = {"kind": "scratch", "hidden": 32, "layers": 2, "heads": 2, "vocab": 270, "positions": 32, "seed": 1}
TRAINING = {"lr": "1e-3", "weights": "bf16_stochastic", "moments": "bf16", "epochs": 3, "batch": 3, "clip": 1.0}
WORDS = "Ada Bruno Clara was born in Oslo Lima Riga and sold a red bell".split()


gc.collect()
gc.freeze()  # Trainer collects garbage at each start, and walking the imported libraries takes most of the time


def sentences(count, seed):
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(WORDS), (count, 12), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in row) + "." for row in picks]


@pytest.fixture(scope="module")
def tokenizer():
    return models.build_tokenizer(sentences(30, 0), SPEC["vocab"], SPEC["positions"])


@pytest.fixture(scope="module")
def rows(tokenizer):
    return [batching.chunks(sentences(n, seed), tokenizer, 24)[:10] for n, seed in ((14, 1), (14, 2))]


def make(tokenizer, rows, training=TRAINING, method="npo", regularizer="gdr", store=None, alpha=1.0, seed=0):
    model = models.build_model(SPEC, tokenizer)
    if training.get("weights", "fp32") != "fp32":
        precision.to_bf16_grid(model)
    dataset = batching.ForgetRetainDataset(*rows)
    weighted = {"alpha": alpha} if regularizer != "none" else {}
    objective = Objective.of({"name": method}, {"name": regularizer, **weighted})
    everything = batching.collate([dataset[i] for i in range(len(dataset))])
    reference = Reference.of(model, [everything["forget"]], objective.needs)
    return unlearner.UnlearnTrainer(model, dataset, training, seed, objective, reference, store=store)


def weights(training):
    return [p.detach().clone() for p in training.model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def kill_at(training, step, number=signal.SIGTERM):
    """Send this process a signal while a step of the training runs."""
    inner = training.training_step

    def step_and_signal(*arguments, **keywords):
        if training.state.global_step + 1 == step:
            os.kill(os.getpid(), number)
        return inner(*arguments, **keywords)

    training.training_step = step_and_signal


def test_two_runs_are_identical_and_another_seed_is_not(tokenizer, rows):
    first, second, other = (make(tokenizer, rows, seed=seed) for seed in (0, 0, 1))
    assert first.run() == second.run() == other.run() == 12
    assert same(weights(first), weights(second)) and first.history == second.history
    assert not same(weights(first), weights(other))
    assert [entry["step"] for entry in first.history] == list(range(1, 13))
    assert set(first.history[0]) == {"step", "forget", "retain", "total", "grad_norm", "lr"}


# At the end of an epoch, and in the middle of one.
@pytest.mark.parametrize("number, code, step", [(signal.SIGTERM, 143, 4), (signal.SIGUSR1, 75, 6)])
def test_killed_and_resumed_ends_in_the_same_bits(tokenizer, rows, tmp_path, number, code, step):
    training = {**TRAINING, "schedule": "cosine", "warmup": 2}
    straight = make(tokenizer, rows, training)
    straight.run()
    store = ResumeStore(tmp_path / ".resume", "digest")
    cut = make(tokenizer, rows, training, store=store)
    kill_at(cut, step, number)
    assert cut.run() == step and cut.interruption.signal == number and cut.interruption.exit_code == code
    assert [p.name for p in store.folder.iterdir()] == [f"step-{step}"]
    resumed = make(tokenizer, rows, training, store=store)
    assert resumed.run() == 12 and resumed.interruption.signal is None
    assert same(weights(resumed), weights(straight)) and resumed.history == straight.history


def test_resuming_in_the_middle_of_an_epoch_with_accumulation(tokenizer, rows, tmp_path):
    training = {**TRAINING, "batch": 2, "accumulation": 2, "save_steps": 1}
    straight = make(tokenizer, rows, training)
    assert straight.run() == 9  # 10 rows: 5 batches, 3 steps an epoch
    store = ResumeStore(tmp_path / ".resume", "digest")
    cut = make(tokenizer, rows, training, store=store)

    class Power(Exception):
        pass

    def fail(*arguments, inner=cut.training_step):
        if cut.state.global_step == 5:
            raise Power
        return inner(*arguments)

    cut.training_step = fail
    with pytest.raises(Power):
        cut.run()
    (store.folder / ".step-6.partial").mkdir()  # what a crash leaves in the middle of a save
    (store.folder / "step-7").mkdir()  # and a state without its notes
    resumed = make(tokenizer, rows, training, store=store)
    assert store.latest()[1]["step"] == 5
    resumed.run()
    assert same(weights(resumed), weights(straight)) and resumed.history == straight.history


def test_state_of_another_spec_is_discarded(tokenizer, rows, tmp_path):
    cut = make(tokenizer, rows, store=ResumeStore(tmp_path / "r", "one"))
    kill_at(cut, 3)
    cut.run()
    other = ResumeStore(tmp_path / "r", "two")
    assert other.latest() == (None, None) and not list((tmp_path / "r").iterdir())


def test_saving_by_the_clock(tokenizer, rows, tmp_path):
    store = ResumeStore(tmp_path / "r", "d")
    make(tokenizer, rows, {**TRAINING, "save_minutes": 0}, store=store).run()
    assert store.latest()[1]["step"] == 11  # every step but the last, after which the checkpoint follows


def test_total_is_forget_plus_alpha_retain_and_follows_a_bare_loop(tokenizer, rows):
    training = {**TRAINING, "weights": "fp32", "moments": "fp32", "epochs": 2, "batch": 10, "lr": "1e-2", "clip": 0.5}
    run = make(tokenizer, rows, training, "ga", "gdr", alpha=2.5)
    run.run()
    model = models.build_model(SPEC, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    batch = batching.collate([run.train_dataset[i] for i in range(10)])
    for entry in run.history:
        forget, retain = (losses.cross_entropy(losses.forward(model, batch[k]), batch[k]) for k in ("forget", "retain"))
        (-forget + 2.5 * retain).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        assert entry["forget"] == pytest.approx(-forget.item(), rel=1e-5)
        assert entry["total"] == pytest.approx((-forget + 2.5 * retain).item(), rel=1e-5)
        assert entry["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    for a, b in zip(weights(run), model.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-3, atol=2e-5)


def test_accumulated_batches_equal_one_large_batch(tokenizer, rows):
    base = {**TRAINING, "weights": "fp32", "moments": "fp32", "epochs": 1}
    large = make(tokenizer, rows, {**base, "batch": 10})
    small = make(tokenizer, rows, {**base, "batch": 5, "accumulation": 2})
    large.run(), small.run()
    assert small.history[0]["total"] == pytest.approx(large.history[0]["total"], rel=1e-5)
    assert small.history[0]["grad_norm"] == pytest.approx(large.history[0]["grad_norm"], rel=1e-4)


def test_each_epoch_sees_every_row_once_in_a_new_order(tokenizer, rows):
    run, seen = make(tokenizer, rows), []
    inner = run.training_step
    run.training_step = lambda model, inputs, n=None: (seen.append(inputs["forget"]["index"]), inner(model, inputs, n))[1]
    run.run()
    epochs = [torch.cat(seen[i : i + 4]).tolist() for i in range(0, 12, 4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs) and len({tuple(e) for e in epochs}) == 3


def test_learning_rate_follows_warmup_and_schedule(tokenizer, rows):
    def rates(**changes):
        run = make(tokenizer, rows, {**TRAINING, "lr": "8e-3", "max_steps": 8, **changes})
        run.run()
        return [entry["lr"] for entry in run.history]

    assert rates() == [8e-3] * 8
    assert rates(warmup=4) == pytest.approx([0, 2e-3, 4e-3, 6e-3, 8e-3, 8e-3, 8e-3, 8e-3])
    assert rates(schedule="linear") == pytest.approx([8e-3 * (1 - i / 8) for i in range(8)])
    assert rates(schedule="cosine")[4] == pytest.approx(4e-3)


def test_none_costs_no_retain_forward(tokenizer, rows):
    passes = []
    for regularizer in ("none", "gdr"):
        run, count = make(tokenizer, rows, {**TRAINING, "max_steps": 3}, "ga", regularizer), []
        run.model.register_forward_hook(lambda *_, count=count: count.append(1))
        run.run()
        passes.append(len(count))
    assert passes == [3, 6]


WRONG = {"a number": lambda loss: loss.item(), "none": lambda loss: None, "a vector": lambda loss: loss.repeat(3)}


@pytest.mark.parametrize("wrong", [*WRONG, "detached"])
def test_a_loss_that_trains_nothing_is_an_error(tokenizer, rows, monkeypatch, wrong):
    """Its run would pass for an unlearned model, with the target's weights or with those of the retain term alone."""
    run = make(tokenizer, rows, method="ga")
    module = run.objective.method.module
    inner = module.loss
    change = WRONG.get(wrong, torch.Tensor.detach)
    monkeypatch.setattr(module, "loss", lambda *arguments: change(inner(*arguments)))
    with pytest.raises(ValueError, match="the forget loss has no gradient" if wrong == "detached" else "the forget loss is"):
        run.run()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_divergence_is_caught_with_its_step_before_it_is_applied(tokenizer, rows, monkeypatch, where):
    run = make(tokenizer, rows, method="ga")
    module = run.objective.method.module
    inner = module.loss

    def poisoned(model, batch, reference):
        value = inner(model, batch, reference)
        if run.state.global_step + 1 == 5:
            # inf · 0 is NaN in the gradient while the value stays finite.
            return value * float("nan") if where == "loss" else value + (model.lm_head.weight[0, 0] * 0).sqrt() * 0
        return value

    monkeypatch.setattr(module, "loss", poisoned)
    with pytest.raises(trainer.Diverged) as caught:
        run.run()
    assert caught.value.step == 5 and ("gradient" in str(caught.value)) == (where == "gradient")
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    assert run.history[-1]["step"] == 5 and run.history[-1]["grad_norm"] is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lr": "fast"}, "training.lr: 'fast'"),
        ({"lr": "inf"}, "training.lr: inf"),
        ({"schedule": "step"}, "training.schedule: 'step'"),
        ({"batch": 0}, "training.batch: 0"),
        ({"epoch": 3}, "training.epoch: unknown key"),
        ({"weights": "fp16"}, "training.weights: 'fp16'"),
    ],
)
def test_bad_training_settings_are_named(tokenizer, rows, change, message):
    with pytest.raises(ValueError, match=message):
        make(tokenizer, rows, {**TRAINING, **change}).run()


def test_moments_follow_the_weights_unless_said(tokenizer, rows):
    assert hyperparameters.complete({"lr": 1, "weights": "bf16"})["moments"] == "bf16"
    assert hyperparameters.complete({"lr": 1, "weights": "fp32"})["moments"] == "fp32"
    run = make(tokenizer, rows, {**TRAINING, "max_steps": 1, "weights": "bf16", "moments": "fp32"})
    run.run()
    assert isinstance(run.optimizer.optimizer, PrecisionAdamW)
    assert run.optimizer.optimizer.param_groups[0]["moments"] == "fp32"
