"""LoRA: only the updates are trained, the stored model is a plain one, and nothing depends on where training was cut."""

import pytest
import torch

from scripts import train, unlearn
from scripts.core import storage
from scripts.core.training import batching, hyperparameters, lora, precision, unlearner
from scripts.core.training.objective import Objective
from scripts.core.training.reference import Reference
from scripts.core.training.resume import ResumeStore
from scripts.core.weights import models

SHAPE = {"kind": "scratch", "hidden": 16, "layers": 2, "heads": 2, "positions": 48, "seed": 1}
TEXTS = [f"Person {i} was born in town {i * 7 % 5} and keeps {i * 3 % 11} red bells." for i in range(12)]
TRAINING = {"lr": "1e-2", "weights": "bf16", "moments": "bf16", "max_steps": 4, "batch": 2}
LORA = TRAINING | {"parameters": "lora", "rank": 2, "lora_alpha": 4.0, "lora_targets": "q_proj+down_proj"}


@pytest.fixture(scope="module")
def tokenizer():
    return models.build_tokenizer(TEXTS, 280, 48)


def make(tokenizer, store=None, **changes):
    training = hyperparameters.complete(LORA | changes)
    model = models.build_model(SHAPE, tokenizer)
    precision.to_bf16_grid(model)
    dataset = batching.ForgetRetainDataset(*(batching.chunks(TEXTS[part], tokenizer, 16) for part in (slice(0, 6), slice(6, 12))))
    reference = Reference.of(model, [batching.collate([dataset[i] for i in range(len(dataset))])["forget"]], ("sequence_logprob",))
    model = lora.wrap(model, training, seed=5)
    precision.to_bf16_grid(model)
    objective = Objective.of({"name": "npo", "beta": 0.1}, {"name": "gdr", "alpha": 1.0})
    return unlearner.UnlearnTrainer(model, dataset, training, 0, objective, reference, store=store)


def test_only_the_updates_are_trained_and_kept(tokenizer):
    run = make(tokenizer)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.run()
    for name, p in run.model.named_parameters():
        assert torch.equal(p, before[name]) == ("lora_" not in name), name
        assert (p in run.optimizer.optimizer.state) == ("lora_" in name)
        assert torch.equal(p, p.bfloat16().float())  # the weights axis is honoured: updates are on the bf16 grid
    names = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in before if "lora_" in name}
    assert names == {"q_proj", "down_proj"}


def test_the_merge_is_w_plus_scaled_ba(tokenizer):
    run = make(tokenizer)
    run.run()
    layer = run.model.base_model.model.model.layers[1].mlp.down_proj
    a, b = (part["default"].weight.detach().clone() for part in (layer.lora_A, layer.lora_B))
    expected = layer.base_layer.weight + 4.0 / 2 * b @ a
    ids = torch.tensor([[1, 5, 9, 12]])
    logits = run.model(input_ids=ids).logits
    plain = lora.merge(run.model)
    torch.testing.assert_close(plain.model.layers[1].mlp.down_proj.weight, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(plain(input_ids=ids).logits, logits, rtol=1e-4, atol=1e-5)
    assert not any("lora" in name for name, _ in plain.named_parameters()) and b.any()


def test_killed_and_resumed_ends_in_the_same_bits(tokenizer, tmp_path):
    straight = make(tokenizer)
    straight.run()
    store = ResumeStore(tmp_path / "r", "d")
    make(tokenizer, store, save_steps=2, max_steps=4).run()
    state = store.latest()[0]
    assert (state / "adapter_model.safetensors").exists() and not (state / "model.safetensors").exists()
    resumed = make(tokenizer, store)
    resumed.run()
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype
    assert resumed.history == straight.history


def test_all_means_every_linear_layer_of_the_decoder(tokenizer):
    found = lora.targets(models.build_model(SHAPE, tokenizer), "all")
    assert len(found) == 2 * 7 and not any("lm_head" in name for name in found)


@pytest.mark.parametrize("wanted, word", [("q_projj", "q_projj"), ("q_proj+nothing", "nothing"), ("proj", "proj")])
def test_targets_that_match_nothing(tokenizer, wanted, word):
    with pytest.raises(ValueError, match=f"lora_targets: '{word}' matches no Linear layer.*down_proj") as caught:
        lora.targets(models.build_model(SHAPE, tokenizer), wanted)
    assert "\n" not in str(caught.value)


# The program, with LoRA, with SURE, without retain text, and for arithmetic on checkpoints.


@pytest.fixture
def place(tokenizer, tmp_path):
    """A folder with a corpus that has forget text only, a target and a reinforced run."""
    storage.write_json(tmp_path / "corpus/data/raw/forget.json", TEXTS[:6])
    storage.write_json(tmp_path / "corpus/manifest.json", {})
    for name, seed in (("target", 1), ("reinforced", 2)):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
        models.save_checkpoint(models.build_model(SHAPE | {"seed": seed}, tokenizer), tokenizer, tmp_path / name / "checkpoint")
        storage.write_json(tmp_path / name / "outcome.json", {"status": "done", "weights": name})
    return tmp_path


def program(place, method="ga", regularizer="none", training=TRAINING, reinforced=False, store="full", **parameters):
    """(exit code, run folder) of scripts.unlearn."""
    spec = {"stage": "unlearn", "run": "c/x/s/seed0", "seed": 0, "corpus": {"name": "c", "max_length": 16}, "model": {}}
    spec |= {"method": {"name": method, **parameters}, "regularizer": {"name": regularizer}, "training": training}
    storage.write_json(place / "run/spec.json", spec)
    extra = ["--reinforced", str(place / "reinforced")] if reinforced else []
    paths = {"--spec": "run/spec.json", "--corpus": "corpus", "--target": "target", "--out": "run"}
    arguments = [word for key, value in paths.items() for word in (key, str(place / value))]
    return unlearn.main([*arguments, *extra, "--store-checkpoints", store]), place / "run"


def tensors(folder):
    return dict(models.load_model(folder / "checkpoint").named_parameters())


def test_a_corpus_without_retain_text_serves_none_and_only_none(place, capfd):
    assert program(place)[0] == 0
    assert program(place, regularizer="gdr")[0] == 2 and "retain1" in capfd.readouterr().err
    assert program(place, method="rmu")[0] == 2


def test_the_stored_lora_model_is_a_plain_one(place):
    code, run = program(place, training=LORA)
    assert code == 0
    before, after = tensors(place / "target"), tensors(run)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.endswith(("q_proj.weight", "down_proj.weight")) for name in changed)
    assert storage.read_json(run / "outcome.json")["status"] == "done"


def test_sure_stores_its_mask_and_what_it_left_out_is_the_target_to_the_bit(place):
    code, run = program(place, training=TRAINING | {"saliency": "module", "percentile": 75.0})
    mask = {entry["name"]: entry["trained"] for entry in storage.read_json(run / "mask.json")["weights"]}
    before, after = tensors(place / "target"), tensors(run)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert code == 0 and changed and changed <= {name for name, trained in mask.items() if trained}


def test_arithmetic_methods_are_runs_like_any_other(place, capfd):
    for method, training in (("task_vector", {"store": "bf16"}), ("whp", {})):
        code, run = program(place, method, training=training, reinforced=True, alpha=0.5)
        outcome = storage.read_json(run / "outcome.json")
        assert code == 0 and outcome["status"] == "done" and outcome["step"] == 0
    assert storage.read_json(run / "checkpoint/pair.json") == {"alpha": 0.5}
    assert program(place, "whp", training={})[0] == 2 and "--reinforced: missing" in capfd.readouterr().err


@pytest.mark.parametrize("method", ["ga", "task_vector", "whp"])
def test_the_outcome_is_the_same_however_weights_are_kept(place, method):
    """Also where a checkpoint holds two models; the difference loads as the whole checkpoint does."""
    training = {"ga": TRAINING | {"store": "bf16"}, "task_vector": {"store": "bf16"}, "whp": {}}[method]
    found = []
    for store in ("full", "delta"):
        code, run = program(place, method, training=training, reinforced=method != "ga", store=store)
        assert code == 0
        found.append((storage.read_json(run / "outcome.json"), models.weights_digest(run / "checkpoint"), tensors(run)))
    assert found[0][:2] == found[1][:2] and found[0][0]["weights"] == found[0][1]
    assert all(torch.equal(found[1][2][name], tensor) for name, tensor in found[0][2].items())
    names = {path.name for path in (run / "checkpoint").rglob("*.safetensors")}
    assert names == {"delta.safetensors"}
    sizes = storage.read_json(run / "run.json")["checkpoint_bytes"]
    assert sizes["stored"] == sum(path.stat().st_size for path in (run / "checkpoint").rglob("*.safetensors"))


def test_targets_that_match_nothing_end_the_program_with_one_line(place, capfd):
    assert program(place, training=LORA | {"lora_targets": "qq"})[0] == 2
    assert len([line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize("kind", ["scratch", "pretrained"])
def test_the_reinforced_model_is_the_target_trained_on_forget_text(place, kind, capfd):
    """From the target whatever the model's kind, on forget text alone, by its own recipe; it fits that text better."""
    model = {"kind": kind, "target": "no/where", "reinforce": {"steps": 6, "lr": "1e-3", "batch": 2}}
    spec = {"stage": "reinforced", "run": "c/reinforced", "seed": 0, "corpus": {"name": "c", "max_length": 16}, "model": model}
    storage.write_json(place / "made/spec.json", spec)
    paths = {"--spec": "made/spec.json", "--corpus": "corpus", "--out": "made", "--base": "target"}
    arguments = [word for key, value in paths.items() for word in (key, str(place / value))]
    assert train.main(arguments) == 0
    record = storage.read_json(place / "made/run.json")
    assert storage.read_json(place / "made/outcome.json")["step"] == 6
    assert record["history"][-1]["loss"] < record["history"][0]["loss"]
    assert train.main(arguments[:-2]) == 2 and "--base: missing" in capfd.readouterr().err
