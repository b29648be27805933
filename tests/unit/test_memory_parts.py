"""The memory plan's parts by hand: what a spec says of them, shapes, and what ZeRO divides and offload moves."""

import json

import pytest

from scripts.core.planning import memory, placement
from tests.unit.test_memory import BLOCK, SIZES, SIZES_OF_A_LLAMA, sweep

UNLEARN = {"stage": "unlearn", "corpus": {"max_length": 64}, "method": {"name": "npo"}, "regularizer": {"name": "gdr"}}
MORE = {"checkpointing": True, "optimizer": "paged_adamw"}
PLAIN = {"batch": 6, "weights": "bf16", "moments": "fp32"}


@pytest.mark.parametrize(
    "method, regularizer, training, expected",
    [
        ("npo", "gdr", {}, {}),
        ("ga", "klr", {}, {"reference": True, "divergence": True}),
        ("ga", "klr_published", {}, {"reference": True, "divergence": True}),
        ("rmu", "none", {"reference": "resident"}, {"reference": True, "divergence": True}),
        ("ga", "klr", {"reference": "stored"}, {"reference": False, "divergence": True}),
        ("npo", "gdr", {"parameters": "lora", "rank": 4}, {"lora": 4, "whole_model": False}),
        ("npo", "gdr", {"parameters": "lora"}, {"lora": 8, "whole_model": False}),
        ("npo", "gdr", {"rank": 4}, {}),
        ("npo", "gdr", {"saliency": "module"}, {"masked": True, "whole_model": False}),
        ("npo", "gdr", {"saliency": "row-fixed"}, {"masked": True, "whole_model": False}),
        ("npo", "gdr", {"saliency": "row-step"}, {"masked": True, "whole_model": False, "apart": 1}),
        ("npo", "gdr", {"saliency": "row-step", "accumulation": 2}, {"masked": True, "whole_model": False, "apart": 2}),
        ("npo", "gdr", {"saliency": "none"}, {}),
        ("npo", "gdr", {"gradient_checkpointing": True, "optimizer": "paged_adamw"}, MORE),
    ],
)  # fmt: skip
def test_what_a_spec_says_of_a_training_s_memory(method, regularizer, training, expected):
    spec = UNLEARN | {"method": {"name": method}, "regularizer": {"name": regularizer}, "training": PLAIN | training}
    assert memory.Training.of(spec) == memory.Training(64, 6, "bf16", "fp32", **expected)


@pytest.mark.parametrize("stage, batch", [("base", 3), ("target", 5), ("retrain", 5), ("reinforced", 7)])
def test_an_ordinary_training_is_in_fp32_with_its_recipe_s_batch(stage, batch):
    model = {"pretrain": {"batch": 3}, "finetune": {"batch": 5}, "reinforce": {"batch": 7}}
    spec = {"stage": stage, "corpus": {"max_length": 64}, "model": model}
    assert memory.Training.of(spec) == memory.Training(64, batch, "fp32", "fp32")
    assert memory.Training.of(spec | {"model": {}}).batch == 16


def test_shapes_are_those_of_the_first_folder_that_states_one(tmp_path):
    for name, hidden in (("run", 16), ("target", 32), ("base", 48)):
        sizes = SIZES_OF_A_LLAMA | {"hidden_size": hidden, "tie_word_embeddings": True}
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(sizes))
    model = {"kind": "finetune", "base": str(tmp_path / "base"), "billions": 1}
    assert memory.shape_of({"model": model}) == memory.Shape(48, 2, 4, 2, 160, 300, tied=True)
    assert memory.shape_of({"model": model | {"target": str(tmp_path / "target")}}).hidden == 32
    assert memory.shape_of({"model": model}, tmp_path / "run").hidden == 16
    sizes = {name: size for name, size in SIZES_OF_A_LLAMA.items() if name != "num_key_value_heads"}
    (tmp_path / "run/config.json").write_text(json.dumps(sizes))
    assert memory.stated_shape(tmp_path / "run") == memory.Shape(64, 2, 4, 4, 160, 300)


def test_a_model_from_scratch_states_its_shape_and_what_it_leaves_out():
    model = {"kind": "scratch", "hidden": 100, "layers": 3, "heads": 4}
    assert memory.shape_of({"model": model}) == memory.Shape(100, 3, 4, 4, 256, 1024)  # of 275, whole 64s
    assert memory.shape_of({"model": model | {"hidden": 16}}).intermediate == 64
    whole = {"kv_heads": 2, "intermediate": 96, "vocab": 300}
    assert memory.shape_of({"model": model | whole}) == memory.Shape(100, 3, 4, 2, 96, 300)
    assert memory.Shape(**SIZES, layers=2, tied=True).weights == memory.Shape(**SIZES, layers=2).weights - 300 * 64


BIG = memory.Shape(4096, 32, 32, 32, 11008, 32000)
N = BIG.weights


@pytest.mark.parametrize(
    "zero, offload, weights, gradients, optimiser, step, reference",
    [
        (0, "none", 2 * N, 2 * N, 4 * N, 16 * 2**26, 2 * N),
        (2, "none", 2 * N, 3 * 2 * N / 4 + 2 * 2 * 5e8, 4 * N / 4 + 2 * N / 4, 16 * 2**26 + 2 * N / 4, 2 * N),
        (2, "cpu", 2 * N, 2 * 2 * 5e8, 0, 0, 2 * N),
        (3, "none", 2 * N / 4 + 2e9, 2 * N / 4 + 2 * 5e8, 4 * N / 4 + 2 * N / 4, 16 * 2**26 + 2 * N / 4, 2 * N / 4),
        (3, "cpu", 2e9, 2 * 5e8, 0, 0, 2 * N / 4),
    ],
)
def test_what_zero_divides_and_offload_moves(zero, offload, weights, gradients, optimiser, step, reference):
    """As the table of the module has it, for bf16 on four GPUs."""
    training = memory.Training(batch=8, reference=True, divergence=True)
    parts = memory.plan(BIG, training, 4, zero, offload)
    expected = {"weights": weights, "gradients": gradients, "optimiser": optimiser, "step": step, "reference": reference}
    assert {name: parts[name] for name in expected} == pytest.approx(expected)
    share = 4 if zero else 1
    alone = memory.plan(BIG, memory.Training(batch=8 // share, reference=True, divergence=True))
    assert (parts["logits"], parts["activations"]) == (alone["logits"], alone["activations"])
    backward = parts["logits"] + parts["activations"]
    rest = parts["weights"] + parts["gradients"] + parts["optimiser"] + parts["reference"] + 2e9
    assert parts["total"] == pytest.approx(rest + max(backward, parts["step"]))


def test_moments_masters_and_casts_by_hand():
    def part(name, **training):
        return memory.plan(BIG, memory.Training(**training))[name]

    for optimizer, moment in (("adamw", 2), ("adamw_8bit", 1 + 4 / 256), ("paged_adamw", 0), ("paged_adamw_8bit", 0)):
        assert part("optimiser", optimizer=optimizer) == 2 * N * moment
    assert part("weights", weights="fp32", checkpointing=True) == 4 * N + 2 * BIG.linear
    assert part("weights", weights="fp32") == 4 * N + 2 * BIG.linear and part("step", weights="fp32") == 0
    small = memory.Shape(layers=2, **SIZES)  # of fewer weights than are widened at once
    assert memory.plan(small, memory.Training())["step"] == 16 * small.weights
    layer = (BIG.linear - 32000 * 4096) / 32
    one = part("weights", weights="fp32", lora=8, checkpointing=True)
    assert one == 4 * (N + BIG.lora(8)) + 2 * (layer + 32000 * 4096)
    assert part("gradients", lora=8) == 2 * BIG.lora(8) and part("gradients", masked=True, apart=2) == 3 * 2 * N
    parts = memory.plan(BIG, memory.Training(length=16, batch=1))  # little text: its step is the most that is alive
    assert parts["total"] == 2 * N + 2 * N + 4 * N + parts["step"] + 2e9


def test_what_is_alive_at_the_top_of_a_backward_pass():
    """With checkpointing the final norm's inputs beside the logits, or one layer in full, when they are gone."""
    tokens = 4 * 2048
    for vocabulary, most in ((32000, "layer"), (10**6, "logits")):
        shape = memory.Shape(4096, 32, 32, 32, 11008, vocabulary)
        parts = memory.plan(shape, memory.Training(checkpointing=True))
        layer, final = memory.activation_bytes(shape, "bf16", "bf16")
        one = tokens * (layer + 2 * 2 * 11008) + 2 * 4096 * 11008 - parts["logits"]
        assert (one > tokens * final) == (most == "layer")
        assert parts["activations"] == tokens * 32 * 4096 * 2 + max(one, tokens * final)
    parts = memory.plan(BIG, memory.Training(masked=True))
    assert parts["mask"] == 4 * N + parts["activations"] + parts["logits"]
    assert memory.plan(BIG, memory.Training())["mask"] == 0


@pytest.mark.parametrize(
    "stage, kind, method, expected",
    [
        ("unlearn", "pretrained", "npo", True),
        ("unlearn", "scratch", "task_vector", False),
        ("corpus", "scratch", None, False),
        ("base", "scratch", None, True),
        ("target", "finetune", None, True),
        ("retrain", "pretrained", None, False),
        ("reinforced", "pretrained", None, True),
    ],
)
def test_what_is_a_training(stage, kind, method, expected):
    assert placement.is_training({"stage": stage, "model": {"kind": kind}, "method": {"name": method}}) is expected


def test_the_table_s_numbers_are_gb_on_all_gpus_of_a_job():
    block = BLOCK | {"method": ["ga", "npo"], "regularizer": ["none", "gdr"]}
    for resources, gpus in (({"gpus": 0}, 1), ({"gpus": 2, "nodes": 2}, 4)):
        plan = sweep(sweep=[block], unlearning={"batch": 4, "max_steps": 2}, resources=resources | {"gpu_gb": 80})
        head, *lines, last = placement.table(plan)
        assert last.startswith(f"GB per GPU on {gpus} of 80 GB, 2 GB")
        (line,) = (one for one in lines if "and 2 more" in one)
        run = next(run for run in plan.runs.values() if run.stage == "unlearn")
        stage = (0, "none") if gpus == 1 else (2, "none")
        total = memory.plan(memory.shape_of(run.spec), memory.Training.of(run.spec), gpus, *stage)["total"]
        assert f" {total / 1e9:11.2f}  {placement.name_of(*stage)}" in line


def test_what_would_do_is_the_least_of_all_ways():
    training = memory.Training(batch=4)
    least = min(memory.plan(BIG, training, 4, *option)["total"] for option in placement.candidates(training, 4))
    with pytest.raises(ValueError, match=f"1 GB are too little on 4 GPUs, {least / 1e9:.0f} GB each would do"):
        placement.choose(BIG, training, 4, 1)
