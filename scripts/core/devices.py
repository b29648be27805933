"""GPUs for one job on a machine with several: those that no other job of this user holds.

Slurm shows a job only the GPUs that it was given. On one machine with several GPUs, every process sees all of them and would take
the first. So a job here takes as many as it needs by locking files, one per GPU; the kernel releases the locks when the job's last
process ends, however it ends. Where a job sees no more GPUs than it needs, nothing is done.
"""

import fcntl
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

# Where a Slurm job is told of its GPUs: of NVIDIA, of AMD, of Intel; and how many it was given of whatever kind.
NAMED, COUNTED = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"), "SLURM_GPUS_ON_NODE"


def visible(environment=os.environ) -> list[str]:
    """The GPUs that a process may use: as CUDA_VISIBLE_DEVICES lists them, else all of the machine by nvidia-smi's numbers.

    Numbers, since DeepSpeed and vLLM read them out of that variable and stumble over UUIDs.
    """
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return [name.strip() for name in shown.split(",") if name.strip()]
    return nvidia_smi("index")


def nvidia_smi(what: str) -> list[str]:
    """A property of each GPU of this machine, by the name that nvidia-smi has for it; [] where there is no GPU."""
    query = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in output.splitlines() if line.strip()]


def check_count(count: int, environment=os.environ) -> None:
    """ValueError where a node shows GPUs, but fewer than a training has processes on it."""
    shown = visible(environment)
    if shown and len(shown) < count:
        raise ValueError(f"resources.gpus: {count} is not allowed on a node that shows {len(shown)} GPUs; allowed: at most so many")


def check_given(count: int, environment=os.environ) -> None:
    """ValueError in a Slurm job that was given no GPU though it wants `count`: it would compute on the CPU, unnoticed."""
    if not count or "SLURM_JOB_ID" not in environment:
        return
    named = any(environment.get(name, "NoDevFiles") not in ("", "NoDevFiles") for name in NAMED)
    if not (named or environment.get(COUNTED, "0") != "0" or nvidia_smi("index")):
        raise ValueError(
            f"resources.gpus: {count} is not what Slurm gave this job: neither {', '.join(NAMED)} nor {COUNTED} tells of a GPU; "
            "allowed: a partition whose GPUs Slurm knows (slurm_partition, gres), or 0 to compute on the CPU"
        )


def usable(environment=os.environ) -> bool:
    """Whether torch can use a GPU. ValueError where it can't use those that are there: it would compute on the CPU, unnoticed."""
    import torch

    if torch.cuda.is_available():
        return True
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    drivers = nvidia_smi("driver_version") if shown is None or re.match(r"\d|GPU-|MIG-", shown) else []
    if drivers:
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs alone"
        raise ValueError(
            f"GPU: torch {torch.__version__}, built {built}, can't use the GPUs of this machine (driver {drivers[0]}); allowed: "
            "a newer driver, the same torch built for a CUDA that this driver knows, or CUDA_VISIBLE_DEVICES= to compute on the CPU"
        )
    return False


def pick(kind: str, hardware: list[str]) -> str:
    """'cuda' where there is a GPU that a scheme of this kind runs on, else 'cpu'; ValueError where it runs on neither."""
    try:
        if "cuda" in hardware and usable():
            return "cuda"
    except ImportError:  # an environment whose library needs no torch
        pass
    if "cpu" not in hardware:
        raise ValueError(f"scheme.kind: {kind!r} can't run here; allowed: a machine with {' or '.join(hardware)}")
    return "cpu"


def claim(count: int, environment=os.environ, folder: Path | None = None, pause=1.0) -> list[str]:
    """Take `count` of the visible GPUs for this process and show it only those; waits until so many are free.

    Call it before torch is imported. folder: of the lock files, default one of this user's in the temporary folder.
    Returns the GPUs, [] when nothing had to be done. The locks survive exec.
    """
    shown = visible(environment)
    if len(shown) <= count:
        return []
    folder = folder or Path(tempfile.gettempdir()) / f"gpus-of-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        held = {}
        for name in shown:
            lock = os.open(folder / name.replace("/", "-"), os.O_RDWR | os.O_CREAT, 0o600)  # a MIG device's name may have slashes
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            held[name] = lock
            if len(held) == count:
                for descriptor in held.values():
                    os.set_inheritable(descriptor, True)
                if "CUDA_VISIBLE_DEVICES" not in environment:
                    environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi counts; CUDA would begin with the quickest
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(held)
                return list(held)
        for lock in held.values():  # too few: let others have them
            os.close(lock)
        time.sleep(pause)
