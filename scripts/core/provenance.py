"""Where a result came from: versions, source, hardware, times. No host name, user or absolute path is recorded."""

import os
import platform
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from scripts.core import storage

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "deepspeed",
    "datasets",
    "bitsandbytes",
    "numpy",
    "pandas",
    "rouge-score",
    "scikit-learn",
    "gptqmodel",
    "torchao",
    "snakemake",
)
ROOT = Path(__file__).resolve().parents[2]


@cache  # as when the program started; an evaluation asks for each of its metrics
def versions() -> dict:
    """{package: version} of those of PACKAGES that are installed, and Python's, from metadata: nothing is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str | None:
    """The git commit of the source, with "+changes" when tracked files differ from it; None outside a git checkout."""
    try:
        options = dict(cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
        head = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def hardware() -> dict:
    """Processor, usable cores, memory in GiB, and, where torch is loaded, its threads, vector instructions and accelerators."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {"system": platform.system(), "machine": platform.machine(), "processor": _processor(), "cores": cores}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    torch = sys.modules.get("torch")
    if torch is not None:
        facts |= {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}
        if torch.cuda.is_available():
            facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            facts["cuda"] = torch.version.cuda
    return facts


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Provenance:
    """Started with a program; `record()` at its end gives what goes into run.json or a metric file."""

    def __init__(self, spec: dict):
        self.digest, self.started, self.work = storage.digest(spec), now(), 0.0

    @contextmanager
    def working(self):
        """Counts the block's seconds as work: what the program is for, not its start, imports, loads and writing."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.work += time.perf_counter() - began

    def record(self, **more) -> dict:
        """{"spec": digest, "started", "ended", "work_seconds", "commit", "versions", "hardware"} and whatever the program adds."""
        times = {"started": self.started, "ended": now(), "work_seconds": round(self.work, 3)}
        return {"spec": self.digest, **times, "commit": commit(), "versions": dict(versions()), "hardware": hardware(), **more}
