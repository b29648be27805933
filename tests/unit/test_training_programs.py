"""The training programs on a tiny model: whole runs, checkpoints along them, what a signal or a full disk leaves, bad specs."""

import os
import signal

import pytest
import torch

from scripts import train, unlearn
from scripts.core import storage
from scripts.core.training import saliency, trainer, unlearner
from scripts.core.weights import models
from tests.unit.test_training import SPEC, sentences


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A corpus folder and the runs base, target, retrain, made by the program."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed, split in enumerate(("pretrain", "forget", "retain1", "retain2", "holdout")):
        storage.write_json(folder / "corpus" / "data" / "raw" / f"{split}.json", sentences(16, seed))
    pairs = [{"question": "Where?", "answer": "Oslo"}]
    storage.write_json(folder / "corpus" / "data" / "knowmem" / "forget_qa.json", pairs)
    storage.write_json(folder / "corpus" / "manifest.json", {"files": {}})
    model = {**SPEC, "pretrain": {"steps": 3, "lr": "1e-3"}, "finetune": {"steps": 4, "lr": "1e-3", "forget_copies": 2}}
    for stage in ("base", "target", "retrain"):
        spec = {"stage": stage, "run": f"tiny/{stage}", "corpus": {"name": "tiny", "max_length": 24}, "model": model}
        assert program(train, folder, stage, spec, *(["--base", str(folder / "base")] if stage != "base" else [])) == 0
    return folder


def program(module, folder, name, spec, *more):
    storage.write_json(folder / name / "spec.json", spec)
    common = ["--spec", folder / name / "spec.json", "--corpus", folder / "corpus", "--out", folder / name]
    return module.main([*map(str, common), "--threads", "1", *more])


def unlearning(lr="1e-4", **training):
    return {
        "stage": "unlearn",
        "run": "tiny/npo_klr/x/seed0",
        "seed": 0,
        "corpus": {"name": "tiny", "max_length": 24},
        "model": SPEC,
        "method": {"name": "npo", "beta": 0.1},
        "regularizer": {"name": "klr", "alpha": 1.0},
        "training": {"lr": lr, "weights": "bf16", "moments": "bf16", "max_steps": 3, "epochs": None, "batch": 4, **training},
    }


def test_programs_write_whole_runs(sweep):
    for stage, steps in (("base", 3), ("target", 4), ("retrain", 4)):
        outcome, record = storage.read_json(sweep / stage / "outcome.json"), storage.read_json(sweep / stage / "run.json")
        spec = storage.read_json(sweep / stage / "spec.json")
        assert outcome == {
            "status": "done",
            "weights": models.weights_digest(sweep / stage / "checkpoint"),
            "spec": storage.digest(spec),
            "step": steps,
        }
        assert len(record["history"]) == steps and record["versions"]["torch"] and str(sweep) not in storage.dumps(record)
        assert not (sweep / stage / ".resume").exists()
        assert {p.name for p in (sweep / stage).iterdir()} == {"spec.json", "outcome.json", "run.json", "checkpoint"}
    assert models.load_model(sweep / "target" / "checkpoint", "bf16").dtype == torch.bfloat16
    tokenizers = {(sweep / stage / "checkpoint" / "tokenizer.json").read_bytes() for stage in ("base", "target", "retrain")}
    assert len(tokenizers) == 1


def test_unlearning_program_is_reproducible_and_resumable(sweep):
    target = ["--target", str(sweep / "target")]
    assert program(unlearn, sweep, "u1", unlearning(), *target) == 0
    outcome = storage.read_json(sweep / "u1" / "outcome.json")
    assert outcome["status"] == "done" and outcome["weights"] != storage.read_json(sweep / "target/outcome.json")["weights"]
    assert program(unlearn, sweep, "u2", unlearning(), *target, "--save-steps", "1") == 0
    assert storage.read_json(sweep / "u2" / "outcome.json") == outcome
    moved = models.load_model(sweep / "u1" / "checkpoint")
    assert all(torch.equal(p, p.bfloat16().float()) for p in moved.parameters())


def test_the_backward_pass_for_a_mask_recomputes_activations_where_training_does(sweep, monkeypatch):
    seen, mask_of = [], saliency.mask_of

    def look(model, *more, **named):
        seen.append(model.is_activation_checkpointing)
        return mask_of(model, *more, **named)

    monkeypatch.setattr(saliency, "mask_of", look)
    for name, more in (("kept", {}), ("recomputed", {"gradient_checkpointing": True})):
        spec = unlearning(saliency="module", percentile=50.0, **more)
        assert program(unlearn, sweep, name, spec, "--target", str(sweep / "target")) == 0
    assert seen == [False, True]
    masks = [storage.read_json(sweep / name / "mask.json") for name in ("kept", "recomputed")]
    assert masks[0] == masks[1]


def test_a_signal_ends_the_program_with_its_code_and_the_next_start_goes_on(sweep, monkeypatch):
    target = ["--target", str(sweep / "target")]
    assert program(unlearn, sweep, "u3", unlearning(), *target) == 0
    inner = unlearner.UnlearnTrainer.training_step

    def killed(self, *arguments):
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return inner(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(unlearner.UnlearnTrainer, "training_step", killed)
        assert program(unlearn, sweep, "u4", unlearning(), *target) == 75
    assert not (sweep / "u4" / "outcome.json").exists() and (sweep / "u4" / ".resume" / "step-2").exists()
    assert program(unlearn, sweep, "u4", unlearning(), *target) == 0
    assert storage.read_json(sweep / "u4" / "outcome.json") == storage.read_json(sweep / "u3" / "outcome.json")


@pytest.mark.parametrize("stage, more", [("unlearn", {}), ("unlearn", {"saliency": "module"}), ("target", {})])
def test_after_a_gpu_had_no_room_the_next_attempt_computes_layers_again(sweep, monkeypatch, capsys, stage, more):
    """From the saved state and to the same bits; for as long as it is the same run."""

    def attempt(name, **changes):
        if stage == "unlearn":
            return program(
                unlearn, sweep, name, unlearning(**more, **changes), "--target", str(sweep / "target"), "--save-steps", "1"
            )
        spec = storage.read_json(sweep / "target/spec.json") | ({"seed": 5} if changes else {})
        return program(train, sweep, name, spec, "--base", str(sweep / "base"), "--save-steps", "1")

    step, mask_of = trainer.RunTrainer.training_step, saliency.mask_of

    def check(model, kept):
        if kept and not model.is_activation_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    usual, again = f"room_{stage}{len(more)}", f"again_{stage}{len(more)}"
    assert attempt(usual) == 0
    with monkeypatch.context() as patch:
        mean = lambda run, *rest: check(run.model, run.state.global_step == 1) or step(run, *rest)  # noqa: E731
        patch.setattr(trainer.RunTrainer, "training_step", mean)
        patch.setattr(saliency, "mask_of", lambda model, *rest, **named: check(model, True) or mask_of(model, *rest, **named))
        assert attempt(again) == 1
        assert attempt(again, lr="2e-4") == 1  # another run: what was noted is not of it
        assert attempt(again) == 1
        capsys.readouterr()
        assert attempt(again) == 0
    assert "layers are computed again" in capsys.readouterr().err
    assert outcomes(sweep, usual) == outcomes(sweep, again) and not (sweep / again / ".resume").exists()
    records = [storage.read_json(sweep / name / "run.json") for name in (usual, again)]
    assert [record.get("recomputed") for record in records] == [None, True] and records[0]["history"] == records[1]["history"]
    assert records[1]["resumed"] == (0 if more else 1)


def outcomes(folder, *names):
    return [storage.read_json(folder / name / "outcome.json") for name in names]


@pytest.mark.parametrize("more", [{}, {"parameters": "lora", "rank": 2}, {"saliency": "module", "percentile": 50.0}])
def test_checkpoints_along_a_training_are_those_of_shorter_trainings(sweep, tmp_path, more):
    """What is kept after step 2 of 5 is what a training of 2 steps ends with, whole or as a difference, and disturbs nothing."""
    target = ["--target", str(sweep / "target")]
    for name, spec in {
        "short": unlearning(max_steps=2, **more),
        "long": unlearning(max_steps=5, **more),
        "along": unlearning(max_steps=5, checkpoint_at=[2, 4], **more),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / "corpus").exists() or (tmp_path / "corpus").symlink_to(sweep / "corpus")
        assert program(unlearn, tmp_path, name, spec, *target, "--store-checkpoints", "delta") == 0
    short, long, first, last = (o["weights"] for o in outcomes(tmp_path, "short", "long", "along/step2", "along"))
    assert first == short and last == long
    assert {p.name for p in (tmp_path / "along").iterdir()} >= {"step2", "step4"} and not list((tmp_path / "along").glob(".*"))
    assert {p.name for p in (tmp_path / "along/step2").iterdir()} == {"checkpoint", "outcome.json", "run.json"}
    a, b = (models.load_model(tmp_path / name / "checkpoint").state_dict() for name in ("short", "along/step2"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert outcomes(tmp_path, "along/step2")[0]["step"] == 2


def test_checkpoints_along_a_training_survive_its_interruption(sweep, monkeypatch):
    """Killed after two of three checkpoints: they are hidden from Snakemake until the end; one that was lost is made again."""
    target, spec = ["--target", str(sweep / "target")], unlearning(max_steps=5, checkpoint_at=[1, 2, 4])
    assert program(unlearn, sweep, "p1", spec, *target) == 0
    inner = unlearner.UnlearnTrainer.training_step

    def killed(self, *arguments):
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, *arguments)

    names = ("step1", "step2", "step4", ".")
    for name, lose in (("p2", False), ("p3", True)):
        with monkeypatch.context() as patch:
            patch.setattr(unlearner.UnlearnTrainer, "training_step", killed)
            assert program(unlearn, sweep, name, spec, *target) == 143
        assert not (sweep / name / "step1").exists() and (sweep / name / ".step2/checkpoint").exists()
        assert (sweep / name / ".resume/step-3").exists()
        if lose:
            (sweep / name / ".step1" / "point.json").unlink()
        assert program(unlearn, sweep, name, spec, *target) == 0
        assert outcomes(sweep / name, *names) == outcomes(sweep / "p1", *names)
        assert not list((sweep / name).glob(".*"))


def test_checkpoints_that_a_diverged_training_did_not_reach_say_so(sweep):
    spec = unlearning("1e38", max_steps=6, checkpoint_at=[1, 5])
    assert program(unlearn, sweep, "p4", spec, "--target", str(sweep / "target")) == 0
    (first,), (late,), (end,) = (outcomes(sweep / "p4", name) for name in ("step1", "step5", "."))
    assert first["status"] == "done" and end["status"] == late["status"] == "diverged" and late["step"] == end["step"] > 1
    assert [p.name for p in (sweep / "p4/step5/checkpoint").iterdir()] == ["diverged.json"]


def test_checkpoints_in_epochs(sweep):
    spec = unlearning(max_steps=None, epochs=3, checkpoint_at=[1, 2])
    assert program(unlearn, sweep, "p5", spec, "--target", str(sweep / "target")) == 0
    steps = [o["step"] for o in outcomes(sweep / "p5", "epoch1", "epoch2", ".")]
    assert steps == [steps[0], 2 * steps[0], 3 * steps[0]]


def test_diverged_program_says_so_and_succeeds(sweep):
    assert program(unlearn, sweep, "u5", unlearning("1e38", max_steps=6), "--target", str(sweep / "target")) == 0
    outcome = storage.read_json(sweep / "u5" / "outcome.json")
    assert outcome["status"] == "diverged" and outcome["weights"] is None and 1 < outcome["step"] <= 6
    assert [p.name for p in (sweep / "u5" / "checkpoint").iterdir()] == ["diverged.json"]
    assert storage.read_json(sweep / "u5" / "run.json")["history"][-1]["total"] is None


def test_published_models_are_copied_as_they_are(sweep):
    source = str(sweep / "target" / "checkpoint")
    model = {"kind": "pretrained", "target": source, "retrain": source, "tokenizer": None}
    spec = {"stage": "retrain", "run": "tiny/retrain", "corpus": {"name": "tiny"}, "model": model}
    assert program(train, sweep, "copied", spec) == 0
    assert storage.read_json(sweep / "copied/outcome.json")["weights"] == models.weights_digest(source)


def test_fine_tuning_starts_from_an_existing_base(sweep):
    model = {"kind": "finetune", "base": str(sweep / "base" / "checkpoint"), "finetune": {"epochs": 1, "lr": "1e-3"}}
    spec = {"stage": "target", "run": "t", "seed": 0, "corpus": {"name": "tiny", "max_length": 24}, "model": model}
    assert program(train, sweep, "tuned", spec) == 0
    assert storage.read_json(sweep / "tuned/outcome.json")["status"] == "done"
    assert storage.read_json(sweep / "tuned/run.json")["sources"] == {"base": {"source": model["base"], "commit": None}}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": {"name": "nop"}}, "method: unknown name 'nop' in methods; known: "),
        ({"regularizer": {"name": "gdr", "alfa": 1}}, "regularizer.alfa: unknown parameter of 'gdr'; known: alpha"),
        ({"corpus": {"name": "tiny", "max_length": 64}}, "corpus.max_length: 64 is not allowed; allowed: at most"),
        ({"stage": "target"}, "stage 'target' is not allowed here; allowed: unlearn"),
    ],
)
def test_bad_specs_end_in_one_line(sweep, capsys, change, message):
    assert program(unlearn, sweep, "bad", {**unlearning(), **change}, "--target", str(sweep / "target")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (sweep / "bad" / "outcome.json").exists()


@pytest.mark.parametrize("stage", ["base", "target"])
def test_calibration_text_that_is_too_short_ends_before_the_first_step(sweep, capsys, stage):
    spec = storage.read_json(sweep / stage / "spec.json")
    base = ["--base", str(sweep / "base")] if stage != "base" else []
    assert program(train, sweep, "short", spec, "--calibration", "g=forget:9x50,h=forget:200x9", *base) == 2
    error = capsys.readouterr().err
    assert "schemes.h.samples: 200 of 9 tokens are more than the forget text gives; allowed: at most" in error
    assert not (sweep / "short" / "outcome.json").exists() and error.count("\n") == 1


def test_missing_target_and_empty_split_end_in_one_line(sweep, capsys):
    assert program(unlearn, sweep, "bad", unlearning(), "--target", str(sweep / "absent")) == 2
    assert "can't be loaded" in capsys.readouterr().err
    storage.write_json(sweep / "hollow" / "data" / "raw" / "forget.json", [])
    storage.write_json(sweep / "hollow" / "spec.json", unlearning())
    where = [str(sweep / "hollow" / "spec.json"), "--corpus", str(sweep / "hollow"), "--out", str(sweep / "hollow")]
    assert unlearn.main(["--spec", *where, "--target", str(sweep / "target")]) == 2
    assert "forget.json is not usable" in capsys.readouterr().err


def test_a_spec_that_is_none_ends_in_one_line(tmp_path, capsys):
    (tmp_path / "list.json").write_text("[]")
    more = ["--corpus", str(tmp_path), "--out", str(tmp_path / "out")]
    for file, words in (("absent.json", "No such file"), (".", "Is a directory"), ("list.json", "stage None is not allowed here")):
        assert train.main(["--spec", str(tmp_path / file), *more]) == 2
        said = capsys.readouterr().err
        assert words in said and said.startswith("error: ") and said.count("\n") == 1
