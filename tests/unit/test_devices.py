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
    first.kill()
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
    environment = {"CUDA_VISIBLE_DEVICES": "2,1"}
    assert devices.claim(1, environment, tmp_path / "locks") == ["2"] and environment == {"CUDA_VISIBLE_DEVICES": "2"}
    monkeypatch.setenv("PATH", "/nowhere")
    assert devices.visible({}) == []
