"""What programs do on a GPU, run on the simulated one (tests/simulated_gpu) and on the CPU.

No tensor is left on the wrong device, the results are the CPU's but for rounding to bf16, and a training step does not wait for the
GPU more often than it has to.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch.version import cuda

from scripts.core import storage
from scripts.core.registry import defaults
from scripts.corpora import synthetic
from tests.simulated_gpu import driver, library

pytestmark = [
    pytest.mark.skipif(not shutil.which("g++"), reason="g++, which builds the simulated GPU, is not here"),
    pytest.mark.skipif(cuda is not None, reason="this torch is built for real GPUs"),
]

MODEL = {"kind": "scratch", "hidden": 64, "layers": 2, "heads": 2, "vocab": 320, "positions": 256, "seed": 1, "tied": True}
RECIPES = {"pretrain": {"steps": 6, "lr": "1e-2"}, "finetune": {"steps": 6, "lr": "5e-3"}, "reinforce": {"steps": 3, "lr": "1e-3"}}
PEOPLE = {"forget_people": 3, "retain_people": 4, "retain2_people": 2, "holdout_people": 3, "pretrain_people": 4, "asked_people": 2}
NPO, GDR, KLR = {"name": "npo", "beta": 0.1}, {"name": "gdr", "alpha": 1.0}, {"name": "klr", "alpha": 1.0}
NONE = {"name": "none"}
FP32 = {"weights": "fp32", "moments": "fp32"}
STAGES = {"base": None, "target": "base", "retrain": "base", "reinforced": "target"}
# Each with what differs from NPO+GDR, bf16 weights, 3 steps.
UNLEARNED = {
    "ga": ({"name": "ga"}, NONE, {}),
    "graddiff": ({"name": "graddiff"}, GDR, {"gradient_checkpointing": True, "accumulation": 2, "schedule": "linear"}),
    "npo": (NPO, GDR, {}),
    "longer": (NPO, GDR, {"max_steps": 6}),
    "npo_fp32": (NPO, GDR, FP32),
    "npo_klr": (NPO, KLR, {"weights": "bf16_stochastic"}),
    "npo_klr_offloaded": (NPO, KLR, {"reference": "offloaded", **FP32}),
    "npo_klr_cached": (NPO, KLR, {"reference": "cached"}),
    "npo_klr_topk": (NPO, KLR, {"reference": "topk"}),
    "published": ({"name": "npo_published", "beta": 0.1}, {"name": "klr_published", "alpha": 1.0}, {"attention": "eager"}),
    "rmu": ({"name": "rmu"}, NONE, {"reference": "offloaded"}),
    "simnpo": ({"name": "simnpo"}, GDR, {"checkpoint_at": [1]}),
    "lora": (NPO, GDR, {"parameters": "lora", "rank": 2, **FP32}),
    "modules": (NPO, GDR, {"saliency": "module", "percentile": 50.0, "sure_double": True}),
    "rows": (NPO, GDR, {"saliency": "row-step", "percentile": 50.0}),
    "task_vector": ({"name": "task_vector"}, NONE, None),
    "whp": ({"name": "whp"}, NONE, None),
}
METRICS = {
    "verbmem": {"kind": "verbmem", "split": "forget", "new_tokens": 6},
    "knowmem": {"kind": "knowmem", "split": "retain", "new_tokens": 4, "shots": 2},
    "privleak": {"kind": "privleak"},
    "perplexity": {"kind": "perplexity"},
    "tasks": {"kind": "lm_eval", "task": "colours", "source": str(Path(__file__).parent / "tasks"), "shots": 0},
}
SCHEMES = {
    "full": {"kind": "full"},
    "rtn": {"kind": "rtn", "bits": 4, "granularity": "tensor"},
    "int8": {"kind": "bnb_int8"},
    "fp4": {"kind": "bnb_fp4"},
    "nf4": {"kind": "bnb_nf4", "double": True},
    "awq": {"kind": "awq", "bits": 4, "group": 32},
}


def spec(stage, name, **more):
    return {"stage": stage, "run": f"tiny/{name}", "seed": 0, "corpus": {"name": "tiny", "max_length": 64}} | more


def calls(folder) -> dict:
    """{name: (module, arguments)} of all programs that are run, in this order, in a folder that gets what they read."""
    synthetic.build(defaults("corpora", "synthetic") | PEOPLE | {"examples": 2}, folder / "corpus" / "data")
    storage.write_json(folder / "corpus" / "manifest.json", {"files": {}})
    found = {}

    def add(name, module, *arguments):
        found[name] = (module, [str(argument) for argument in arguments])

    def training(name, module, content, *arguments):
        storage.write_json(folder / name / "spec.json", content)
        where = ["--spec", folder / name / "spec.json", "--corpus", folder / "corpus", "--out", folder / name, "--threads", 1]
        add(name, module, *where, *arguments)

    for stage, start in STAGES.items():
        training(stage, "scripts.train", spec(stage, stage, model=MODEL | RECIPES), *(["--base", folder / start] if start else []))
    usual = {"lr": "1e-3", "weights": "bf16", "moments": "bf16", "max_steps": 3, "epochs": None, "batch": 2}
    starts = ["--target", folder / "target", "--reinforced", folder / "reinforced"]
    for name, (method, regularizer, settings) in UNLEARNED.items():
        settings = {} if settings is None else usual | settings
        content = spec("unlearn", name, model=MODEL, method=method, regularizer=regularizer, training=settings)
        training(name, "scripts.unlearn", content, *starts, "--store-checkpoints", "full" if name == "whp" else "delta")
    for name, scheme in SCHEMES.items():
        content = {"corpus": {"name": "tiny"}, "scheme": {"name": name, **scheme}, "metrics": METRICS, "batch_tokens": 2048}
        storage.write_json(folder / f"{name}.json", content)
    add("quantize", "scripts.quantize", "--run", folder / "target", "--corpus", folder / "corpus", "--scheme", folder / "awq.json",
        "--out", folder / "target/quantized/awq")  # fmt: skip
    for name, schemes in {"target": SCHEMES, "npo": ("full", "rtn"), "whp": ("full", "fp4")}.items():
        files = [folder / f"{scheme}.json" for scheme in schemes]
        add(f"score {name}", "scripts.evaluate", "--run", folder / name, "--corpus", folder / "corpus", "--schemes", *files)
    add("mechanism", "scripts.mechanism", "--run", folder / "npo", "--target", folder / "target", "--corpus", folder / "corpus",
        "--schemes", folder / "full.json", folder / "rtn.json", "--out", folder / "mechanism.json")  # fmt: skip
    return found


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    """The folder of all programs' results on the CPU."""
    folder = tmp_path_factory.mktemp("cpu")
    for name, (module, arguments) in calls(folder).items():
        assert importlib.import_module(module).main(arguments) == 0, name
    return folder


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory):
    """(folder, {name: what became of it}) of the same on the simulated GPU; there also a run that a signal cuts and goes on."""
    folder = tmp_path_factory.mktemp("gpu")
    wanted = calls(folder)
    cut = [argument.replace(str(folder / "npo_fp32"), str(folder / "cut")) for argument in wanted["npo_fp32"][1]]
    shutil.copytree(folder / "npo_fp32", folder / "cut")
    wanted |= {"cut": ("tests.simulated_gpu.cut", cut), "resumed": ("scripts.unlearn", cut)}
    eight = [argument.replace(str(folder / "npo_fp32"), str(folder / "eight")) for argument in wanted["npo_fp32"][1]]
    content = storage.read_json(folder / "npo_fp32" / "spec.json")
    storage.write_json(folder / "eight" / "spec.json", content | {"training": content["training"] | {"optimizer": "adamw_8bit"}})
    wanted["eight"] = ("scripts.unlearn", eight)
    storage.write_json(folder / "calls.json", list(wanted.values()))
    command = ["-m", "tests.simulated_gpu", library.compile(folder), folder / "calls.json", folder / "found.json"]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, dict(zip(wanted, json.loads((folder / "found.json").read_text()), strict=True))


def test_every_program_ends_well_on_a_gpu(on_gpu):
    folder, became = on_gpu
    failed = {
        name: f"{one['code']} {one['said'][-1500:]}" for name, one in became.items() if one["code"] != (75 if name == "cut" else 0)
    }
    assert not failed, "\n\n".join(f"{name}: {why}" for name, why in failed.items())
    for name in (*STAGES, *UNLEARNED):
        assert storage.read_json(folder / name / "outcome.json")["status"] == "done"
        assert storage.read_json(folder / name / "run.json")["hardware"]["gpus"] == [driver.NAME]


def record(folder, name):
    return storage.read_json(folder / name / "run.json")


@pytest.mark.parametrize("name", [*STAGES, *UNLEARNED])
def test_a_training_on_a_gpu_is_the_one_on_a_cpu_but_for_rounding(on_cpu, on_gpu, name):
    on_gpu = record(on_gpu[0], name)
    if name in STAGES or UNLEARNED[name][2] is not None:
        assert on_gpu["device"] == "cuda"
    for here, there in zip(on_gpu.get("history", []), record(on_cpu, name).get("history", []), strict=True):
        assert here["total"] == pytest.approx(there["total"], rel=0.05) and here["grad_norm"] == pytest.approx(
            there["grad_norm"], rel=0.05
        )


def test_a_training_that_was_cut_goes_on_to_the_same_weights(on_gpu):
    folder, _ = on_gpu
    cut, whole = (storage.read_json(folder / name / "outcome.json") for name in ("cut", "npo_fp32"))
    assert cut == whole and record(folder, "cut")["resumed"] == 2


def test_moments_in_8_bits_lead_nearly_where_whole_ones_do(on_gpu):
    folder, _ = on_gpu
    eight, whole = ([step["total"] for step in record(folder, name)["history"]] for name in ("eight", "npo_fp32"))
    assert eight == pytest.approx(whole, rel=0.02) and eight != whole


@pytest.mark.parametrize(
    "run, scheme", [*(("target", scheme) for scheme in SCHEMES), ("npo", "rtn"), ("whp", "full"), ("whp", "fp4")]
)
def test_scores_on_a_gpu_are_those_of_a_cpu_but_for_rounding(on_cpu, on_gpu, run, scheme):
    read = lambda folder, metric: storage.read_json(folder / run / "eval" / scheme / f"{metric}.json")  # noqa: E731
    for metric in METRICS:
        here, there = read(on_gpu[0], metric), read(on_cpu, metric)
        assert here["status"] == "ok" and here["n"] == there["n"]
        if metric == "perplexity":
            assert here["value"] == pytest.approx(there["value"], rel=0.02)


def test_what_unlearning_did_to_the_weights_is_the_same(on_cpu, on_gpu):
    here, there = (storage.read_json(folder / "mechanism.json")["modules"] for folder in (on_gpu[0], on_cpu))
    assert here.keys() == there.keys()
    for name in here:
        assert here[name]["d2"] == pytest.approx(there[name]["d2"], rel=0.05)


def test_a_step_waits_for_the_gpu_only_where_transformers_looks_for_padding(on_gpu):
    """Once in each forward pass; three more steps of two passes each wait six times more."""
    _, became = on_gpu
    more = {line: count - became["npo"]["waits"].get(line, 0) for line, count in became["longer"]["waits"].items()}
    assert [count for count in more.values() if count] == [6], more


def test_a_tensor_on_the_wrong_device_is_an_error(tmp_path):
    lines = [
        "import torch",
        "here, there = torch.ones(2), torch.ones(2, device='cuda')",
        "assert there.device.type == 'cuda' and (there * 2 + torch.tensor(1)).cpu().tolist() == [3, 3]",
        "for wrong in (lambda: here + there, lambda: there.numpy(), lambda: torch.stack([here, there])):",
        "    try: wrong()",
        "    except (RuntimeError, TypeError): continue",
        "    raise SystemExit(1)",
    ]
    (tmp_path / "wrong.py").write_text("def main(_):\n" + "".join(f"    {line}\n" for line in lines) + "    return 0\n")
    (tmp_path / "calls.json").write_text('[["wrong", []]]')
    command = ["-m", "tests.simulated_gpu", library.compile(tmp_path), tmp_path / "calls.json", tmp_path / "found.json"]
    where = {"cwd": Path(__file__).parents[2], "env": os.environ | {"PYTHONPATH": str(tmp_path)}}
    subprocess.run([sys.executable, *map(str, command)], check=True, **where)
    assert json.loads((tmp_path / "found.json").read_text())[0]["code"] == 0
