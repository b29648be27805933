"""Two ranks on a simulated GPU each (tests/simulated_gpu), under DeepSpeed's settings for GPUs, against one process on one."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
import torch

from scripts.core import storage
from tests.simulated_gpu import library
from tests.unit import zero_runs
from tests.unit.zero_runs import BF16, FP32, LORA, SURE, history, seen, share, weights

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
    pytest.mark.skipif(not shutil.which("g++"), reason="g++, which builds the simulated GPU, is not here"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is built for real GPUs"),
]
# As in test_zero.py; on GPUs bf16 weights are bf16 tensors without being told to.
CASES = {
    "zero2_fp32": (FP32, ["--zero", "2"], None, None, None),
    "zero3_fp32": (FP32, ["--zero", "3"], None, None, None),
    "zero2_bf16": (BF16, ["--zero", "2"], None, None, None),
    "zero3_bf16": (BF16, ["--zero", "3"], None, None, None),
    "zero3_bf16_offload": (BF16, ["--zero", "3", "--offload", "cpu"], None, None, None),
    "zero2_lora": (LORA, ["--zero", "2"], None, None, None),
    "zero2_sure": (SURE, ["--zero", "2"], None, None, None),
    "zero2_cut": (FP32, ["--zero", "2"], None, 3, None),
    "zero2_resumed": (FP32, ["--zero", "2"], None, None, "zero2_cut"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All runs, on simulated GPUs: those of one process, and those of two."""
    folder = tmp_path_factory.mktemp("zero_gpu")
    device = library.compile(folder)
    zero_runs.prepare(folder)
    runs = zero_runs.ALONE.items()
    storage.write_json(folder / "calls.json", [["scripts.unlearn", zero_runs.arguments(folder, *run)] for run in runs])
    command = [sys.executable, "-m", "tests.simulated_gpu", device, folder / "calls.json", folder / "found.json"]
    subprocess.run([str(part) for part in command], check=True, cwd=zero_runs.ROOT)
    assert [one["code"] for one in json.loads((folder / "found.json").read_text())] == [0] * len(runs)
    zero_runs.together(folder, CASES, "zero_worker_gpu.py", device)
    return folder


@pytest.mark.parametrize("ranks", [name for name, case in CASES.items() if case[3] is None and case[4] is None])
def test_two_gpus_give_the_losses_of_one(folder, ranks):
    first, second = history(folder, ranks), history(folder, f"one_{ranks.split('_')[1]}")
    assert len(first) == len(second) == 6
    for a, b in zip(first, second, strict=True):
        assert a["total"] == pytest.approx(b["total"], rel=0.01) and a["grad_norm"] == pytest.approx(b["grad_norm"], rel=0.05)
    assert storage.read_json(folder / ranks / "run.json")["device"] == "cuda"


def test_what_is_stepped_and_written_has_the_precision_that_was_asked_for(folder):
    for name in ("zero2_fp32", "zero3_fp32"):
        assert seen(folder, name) == {"code": 0} | dict.fromkeys(("masters", "moments"), ["torch.float32"]) | {
            "model": "torch.float32"
        }
        found = weights(folder, name)
        assert share(found, {k: v.bfloat16().float() for k, v in found.items()}) < 0.3
    for name in ("zero2_bf16", "zero3_bf16", "zero3_bf16_offload"):
        assert seen(folder, name)["moments"] == ["torch.bfloat16"] and seen(folder, name)["model"] == "torch.bfloat16"
        assert all(torch.equal(v, v.bfloat16().float()) for v in weights(folder, name).values()), name


def test_a_signal_to_one_rank_stops_all_and_the_next_start_ends_in_the_same_bits(folder):
    assert seen(folder, "zero2_cut")["code"] == 143 and seen(folder, "zero2_resumed")["code"] == 0
    assert share(weights(folder, "zero2_cut"), weights(folder, "zero2_fp32")) == 1
