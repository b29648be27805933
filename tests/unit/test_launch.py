"""The launcher: which command it builds, what it leaves alone, and that signals reach the ranks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import launch
from scripts.core import storage
from scripts.core.planning import memory, placement

ROOT = Path(__file__).parents[2]
SPEC = {
    "stage": "unlearn",
    "corpus": {"name": "tiny", "max_length": 24},
    "model": {"kind": "scratch", "hidden": 32, "layers": 2, "heads": 2, "vocab": 270},
    "method": {"name": "npo"},
    "regularizer": {"name": "klr"},
    "training": {"batch": 8, "weights": "bf16", "moments": "bf16"},
}


@pytest.fixture
def spec(tmp_path):
    storage.write_json(tmp_path / "spec.json", SPEC)
    return str(tmp_path / "spec.json")


@pytest.fixture
def started(monkeypatch):
    """What would have been run: [(command, environment, through srun)]."""
    found = []
    monkeypatch.setattr(
        launch, "run", lambda command, environment, through_srun=False: found.append((command, environment, through_srun)) or 0
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    return found


def test_one_gpu_is_the_program_itself(monkeypatch, spec):
    calls = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: calls.append(arguments))
    for gpus in ("0", "1"):
        launch.main(["--gpus", gpus, "scripts.unlearn", "--spec", spec, "--out", "run"])
    assert calls == [[sys.executable, "-m", "scripts.unlearn", "--spec", spec, "--out", "run"]] * 2


def test_what_is_no_training_is_done_by_one_process(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: calls.append(arguments))
    monkeypatch.setattr(launch.devices, "claim", lambda count: calls.append(f"took {count} GPUs"))
    copied = {"stage": "target", "model": {"kind": "pretrained"}}
    storage.write_json(tmp_path / "spec.json", copied)
    launch.main(["--gpus", "8", "scripts.train", "--spec", str(tmp_path / "spec.json")])
    assert len(calls) == 1


def test_several_gpus_of_a_machine(started, spec):
    assert launch.main(["--gpus", "4", "scripts.unlearn", "--spec", spec, "--out", "a b"]) == 0
    ((command, environment, srun),) = started
    assert command[:6] == [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=4",
        "--signals-to-handle=SIGINT",
        "--standalone",
    ]
    assert command[6:] == ["-m", "scripts.unlearn", "--spec", spec, "--out", "a b", "--zero", "2", "--offload", "none"]
    assert environment["OMP_NUM_THREADS"] == "2" and not srun


TOLD = {"SLURM_JOB_NODELIST": "gpu[7-8]", "SLURM_CPUS_PER_TASK": "6"}


@pytest.mark.parametrize("told", [TOLD, {}])  # by Slurm; what Snakemake's plugin leaves of it
def test_several_nodes_of_a_slurm_job(started, spec, monkeypatch, tmp_path, told):
    (tmp_path / "scontrol").write_text("#!/bin/sh\n[ \"$*\" = 'show hostnames gpu[7-8]' ] && printf 'gpu7\\ngpu8\\n'\n")
    (tmp_path / "squeue").write_text("#!/bin/sh\n[ \"$*\" = '--noheader --jobs=1244711 --format=%N' ] && echo 'gpu[7-8]'\n")
    for name in ("scontrol", "squeue"):
        (tmp_path / name).chmod(0o755)
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)
    slurm = {"SLURM_JOB_ID": "1244711", "CUDA_VISIBLE_DEVICES": "0,1,2,3", **told}
    for name, value in {**slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    assert launch.main(["--gpus", "4", "--nodes", "2", "--zero", "3", "--offload", "cpu", "scripts.unlearn", "--spec", spec]) == 0
    command, environment, srun = started.pop()
    cores = f"--cpus-per-task={told.get('SLURM_CPUS_PER_TASK', 8)}"  # 8: the rule's threads
    assert srun and command[0] == "srun" and {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", cores} <= set(command)
    assert {"--overlap", "--kill-on-bad-exit=0", "--export=ALL"} <= set(command)
    own = command[command.index("scripts.launch") + 1 :]
    monkeypatch.setenv("LAUNCH_FIRST_NODE", environment["LAUNCH_FIRST_NODE"])
    for node, hosts in (("0", "True"), ("1", "False")):
        monkeypatch.setenv("SLURM_NODEID", node)
        assert launch.main(own) == 0
        command, _, srun = started.pop()
        assert not srun and {"--nnodes=2", "--nproc-per-node=4", "--rdzv-backend=c10d", "--rdzv-id=1244711"} <= set(command)
        assert "--rdzv-endpoint=gpu7:24711" in command and f"--rdzv-conf=is_host={hosts}" in command
        assert command[-6:] == ["--spec", spec, "--zero", "3", "--offload", "cpu"]


@pytest.mark.parametrize("gpus", ["1", "4"])
def test_several_nodes_without_slurm_are_refused(started, spec, monkeypatch, capsys, gpus):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(launch.devices, "claim", lambda count: pytest.fail("GPUs of this machine are not asked for"))
    assert launch.main(["--gpus", gpus, "--nodes", "2", "scripts.unlearn", "--spec", spec]) == 2
    assert "resources.nodes" in capsys.readouterr().err and not started


def test_a_spec_that_is_not_there_is_one_line(started, spec, capsys):
    assert launch.main(["--gpus", "2", "scripts.unlearn", "--spec", f"{spec}.absent"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "No such file" in said and said.count("\n") == 1 and not started


def test_auto_takes_the_first_stage_that_fits(spec):
    shape, training = memory.Shape(4096, 32, 32, 32, 11008, 32000), memory.Training(batch=4, reference=True, divergence=True)
    sizes = {option: memory.plan(shape, training, 4, *option)["total"] / 1e9 for option in placement.candidates(training, 4)}
    assert list(sizes) == [(2, "none"), (3, "none"), (3, "cpu")] and sorted(sizes.values(), reverse=True) == list(sizes.values())
    for option, size in sizes.items():
        assert placement.choose(shape, training, 4, size + 1) == option
    with pytest.raises(ValueError, match="resources.gpu_gb"):
        placement.choose(shape, training, 4, min(sizes.values()) - 1)


@pytest.mark.parametrize("start", ["--target", "--base"])
def test_the_shape_is_that_of_the_model_that_the_training_starts_from(spec, tmp_path, monkeypatch, start):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 160, "vocab_size": 300}
    storage.write_json(tmp_path / "start/checkpoint/config.json", sizes)
    asked = []
    monkeypatch.setattr(placement, "choose", lambda *arguments: asked.append(arguments) or (3, "cpu"))
    line = ["--gpus", "4", "--nodes", "2", "--gpu-gb", "40", "--zero", "3", "--offload", "none", "scripts.unlearn", "--spec", spec]
    assert launch.sharding(launch.parser().parse_args([*line, start, str(tmp_path / "start")])) == (3, "cpu")
    launch.sharding(launch.parser().parse_args(line))
    (shape, training, *rest), (own, *_) = asked
    assert rest == [8, 40, "3", "none"] and training == memory.Training.of(SPEC)
    assert (shape.hidden, own.hidden) == (64, 32)


def test_a_training_takes_its_gpus_of_the_machine_and_fewer_than_its_ranks_are_refused(started, spec, monkeypatch, capsys):
    taken = []
    monkeypatch.setattr(launch.devices, "claim", taken.append)
    monkeypatch.setattr(os, "execv", lambda *_: None)
    for gpus in ("0", "1", "4"):
        launch.main(["--gpus", gpus, "scripts.unlearn", "--spec", spec])
    assert taken == [1, 1, 4] and len(started) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    for own in ([], ["--on-node", "--nodes", "2"]):  # on this machine, and as srun starts it on each node, which claims nothing
        assert launch.main([*own, "--gpus", "4", "scripts.unlearn", "--spec", spec]) == 2
        assert "resources.gpus: 4 is not allowed on a node that shows 3 GPUs" in capsys.readouterr().err
    assert taken == [1, 1, 4, 4] and len(started) == 1


def test_several_gpus_need_a_spec(started, capsys):
    assert launch.main(["--gpus", "2", "scripts.unlearn", "--out", "run"]) == 2
    assert "--spec: missing" in capsys.readouterr().err and not started


PARENT = (
    "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit({code})); print('.', flush=True); time.sleep(60)"
)


@pytest.mark.parametrize("code, expected", [(0, 0), (1, 143)])
def test_srun_gets_a_signal_that_its_tasks_are_handed(code, expected):
    """SIGTERM would have srun kill them. What has ended well all the same is not called interrupted."""
    program = f"import os, sys; from scripts import launch; command = [sys.executable, '-c', {PARENT.format(code=code)!r}]\n"
    program += "sys.exit(launch.run(command, dict(os.environ), through_srun=True))"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b".\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == expected


def test_what_has_started_no_rank_yet_is_ended():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    launch.forward(process, signal.SIGTERM, through_srun=False)
    assert process.wait(30) == -signal.SIGKILL
    launch.forward(process, signal.SIGTERM, through_srun=False)  # gone: there is nobody to tell


RANK = """
import signal, sys, time, pathlib
def saved(number, frame):
    time.sleep(1)  # longer than a scheduler's other processes live
    pathlib.Path(sys.argv[1]).with_suffix(".saved").write_text(str(number))
    sys.exit(143)
signal.signal(signal.SIGTERM, saved)
pathlib.Path(sys.argv[1]).with_suffix(".ready").write_text("")
time.sleep(60)
"""


def test_a_signal_to_the_whole_group_lets_the_ranks_save_first(tmp_path):
    # In torchrun's place a parent that starts a rank in a session of its own, as torchrun does, and ends when it has ended.
    (tmp_path / "rank.py").write_text(RANK)
    rank = f"[sys.executable, '{tmp_path}/rank.py', '{tmp_path}/x']"
    parent = f"import subprocess, sys; sys.exit(subprocess.Popen({rank}, start_new_session=True).wait())"
    command = f"[sys.executable, '-c', {parent!r}]"
    code = f"import os, sys; from scripts import launch; sys.exit(launch.run({command}, dict(os.environ)))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "x.ready").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(30) == 143
    assert (tmp_path / "x.saved").read_text() == str(int(signal.SIGTERM))


def test_a_slurm_job_without_a_gpu_ends_before_it_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launch.devices, "nvidia_smi", lambda what: [])
    monkeypatch.setattr(launch.os, "execv", lambda *_: pytest.fail("it computes on the CPU"))
    for name in (*launch.devices.NAMED, launch.devices.COUNTED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for place in ([], ["--on-node", "--nodes", "2"]):
        assert launch.main([*place, "--gpus", "1", "scripts.unlearn", "--out", "run"]) == 2
        assert "resources.gpus: 1 is not what Slurm gave this job" in capsys.readouterr().err
