"""GPUs of one machine told apart by locks that end with their process."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.core import devices

ROOT = Path(__file__).parents[2]
JOB = """
import os, sys
from pathlib import Path
from scripts.core import devices
devices.claim(int(sys.argv[1]), folder=Path(sys.argv[2]), pause=0.05)
os.execv(sys.executable, [sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); input()"])
"""


@pytest.fixture
def job(tmp_path):
    """Start a job that takes GPUs of four, becomes another program as launch.py does, and ends when told."""
    started = []

    def start(count):
        command = [sys.executable, "-c", JOB, str(count), str(tmp_path / "locks")]
        process = subprocess.Popen(
            command, cwd=ROOT, env={"CUDA_VISIBLE_DEVICES": "0,1,GPU-x,3"}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_two_jobs_do_not_share_a_gpu_and_a_killed_one_gives_its_back(job):
    first, second = job(1), job(2)
    one, two = first.stdout.readline().strip().split(","), second.stdout.readline().strip().split(",")
    assert len(one) == 1 and len(two) == 2 and not set(one) & set(two)
    third = job(2)  # has to wait: one is left
    with pytest.raises(subprocess.TimeoutExpired):
        third.wait(0.6)
    fourth = job(1)  # gets the one that the third can't do with alone
    assert len(fourth.stdout.readline().strip().split(",")) == 1
    first.kill(), fourth.kill()
    three = third.stdout.readline().strip().split(",")
    assert len(three) == 2 and not set(three) & set(two)


@pytest.mark.parametrize("shown, count", [("", 1), ("2", 1), ("0,1", 2)])
def test_nothing_is_done_where_no_gpu_is_to_spare(tmp_path, shown, count):
    environment = {"CUDA_VISIBLE_DEVICES": shown}
    assert devices.claim(count, environment, tmp_path / "locks") == []
    assert environment == {"CUDA_VISIBLE_DEVICES": shown} and not (tmp_path / "locks").exists()


def test_all_gpus_of_the_machine_are_asked_for(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n[ $1 = --query-gpu=index ] && printf '0\\n1\\n' || printf 'GPU-a\\nGPU-b\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    environment = {}
    assert devices.claim(1, environment, tmp_path / "locks") == ["0"]
    assert environment == {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # numbers, and whose they are
    assert devices.visible({"CUDA_VISIBLE_DEVICES": ""}) == []  # none is shown, whatever the machine has
    environment = {"CUDA_VISIBLE_DEVICES": "2,1"}
    assert devices.claim(1, environment, tmp_path / "locks") == ["2"] and environment == {"CUDA_VISIBLE_DEVICES": "2"}
    parts = {"CUDA_VISIBLE_DEVICES": "MIG-GPU-a1/7/0,MIG-GPU-a1/8/0"}
    assert devices.claim(1, parts, tmp_path / "locks") == ["MIG-GPU-a1/7/0"]
    monkeypatch.setenv("PATH", "/nowhere")
    assert devices.visible({}) == []
    tool.write_text("#!/bin/sh\necho 0\nexit 9\n")  # a driver that does not answer
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert devices.visible({}) == [] and devices.visible({"CUDA_VISIBLE_DEVICES": "0, GPU-x,"}) == ["0", "GPU-x"]


def test_a_training_has_no_more_processes_than_a_node_shows_gpus():
    devices.check_count(2, {"CUDA_VISIBLE_DEVICES": "0,1"})
    devices.check_count(2, {"CUDA_VISIBLE_DEVICES": ""})  # on CPUs
    with pytest.raises(ValueError, match="resources.gpus: 3 is not allowed on a node that shows 2 GPUs"):
        devices.check_count(3, {"CUDA_VISIBLE_DEVICES": "0,1"})


def test_a_slurm_job_that_was_given_no_gpu_does_not_compute_on_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "nvidia_smi", lambda what: [])
    for none in ({}, {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, {"SLURM_GPUS_ON_NODE": "0"}):
        with pytest.raises(ValueError, match="resources.gpus: 1 is not what Slurm gave this job"):
            devices.check_given(1, {"SLURM_JOB_ID": "7"} | none)
        devices.check_given(0, {"SLURM_JOB_ID": "7"} | none)  # asked for none
        devices.check_given(1, none)  # not in a job: a laptop
    for name in devices.NAMED:
        devices.check_given(1, {"SLURM_JOB_ID": "7", name: "0"})
    devices.check_given(1, {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "2"})
    monkeypatch.setattr(devices, "nvidia_smi", lambda what: ["0"])  # a whole node that Slurm knows without its GPUs
    devices.check_given(1, {"SLURM_JOB_ID": "7"})


def test_where_a_scheme_runs(monkeypatch):
    """One that needs no GPU asks for none: a driver that torch can't use is no matter of it, nor an environment without torch."""

    def broken():
        raise ValueError("torch can't use the GPUs")

    for found, usable in (("cuda", lambda: True), ("cpu", lambda: False)):
        monkeypatch.setattr(devices, "usable", usable)
        assert devices.pick("awq", ["cpu", "cuda"]) == found and devices.pick("gguf", ["cpu"]) == "cpu"
    with pytest.raises(ValueError, match="scheme.kind: 'gptq' can't run here; allowed: a machine with cuda"):
        devices.pick("gptq", ["cuda"])
    monkeypatch.setattr(devices, "usable", broken)
    assert devices.pick("gguf", ["cpu"]) == "cpu"
    with pytest.raises(ValueError, match="torch can't use the GPUs"):
        devices.pick("awq", ["cpu", "cuda"])
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert devices.pick("hqq", ["cpu", "cuda"]) == "cpu"
