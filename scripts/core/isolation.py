"""Environments beside the main one: where their interpreters are, how they are made.

Other libraries have pins that contradict the main environment's, so each kind of job names its environment (`ENVIRONMENT` of a
quantizer's plugin, planning/serving.py for evaluation), pinned in envs/<name>.txt. conda deploys envs/<name>.yaml, written from
those same pins (`conda_file`); without conda a plain venv is made of them in .envs/<name>. Nothing here imports more than the
standard library.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "envs"
MAIN = "train"
MARK = ".installed"


class MissingEnvironment(ValueError):
    """One line: which environment is missing or out of date, and the command that makes it."""


def names() -> list[str]:
    """Environments that have pins and can be made beside the main one, sorted."""
    return sorted(path.stem for path in PINS.glob("*.txt") if path.stem != MAIN)


def folder(name: str) -> Path:
    """Where the venv of an environment is: $UNLEARNING_ENVS/<name>, else .envs/<name>."""
    return Path(os.environ.get("UNLEARNING_ENVS", ROOT / ".envs")) / name


def pins(name: str) -> Path:
    """The file of pins; ValueError for an environment that does not exist."""
    path = PINS / f"{name}.txt"
    if not path.exists():
        raise ValueError(f"environment: unknown name {name!r}; allowed: {', '.join([MAIN, *names()])}")
    return path


def conda_file(name: str) -> str:
    """Content of envs/<name>.yaml: Python and the pins, one by one.

    Snakemake copies the file elsewhere before conda reads it, so it can't point to envs/<name>.txt; and so its digest,
    by which Snakemake knows an environment, changes with the pins.
    """
    lines = [line for line in pins(name).read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    head = f"# Written from envs/{name}.txt by `python -m scripts.environments --conda`, for `snakemake --sdm conda`.\n"
    head += "channels: [conda-forge, nodefaults]\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n"
    return head + "".join(f"      - {line}\n" for line in lines)


def digest(name: str) -> str:
    """SHA-256 of an environment's pins; a venv that was made of other pins is out of date."""
    return hashlib.sha256(pins(name).read_bytes()).hexdigest()


def state(name: str) -> str:
    """'ready', 'missing' (never made, or cut off while being made) or 'out of date' (its pins have changed)."""
    mark = folder(name) / MARK
    if not mark.exists() or not (folder(name) / "bin" / "python").exists():
        return "missing"
    return "ready" if mark.read_text(encoding="utf-8").strip() == digest(name) else "out of date"


def interpreter(name: str) -> str:
    """Command of an environment's Python: this one for the main environment, else the venv's.

    Raises MissingEnvironment with the command that makes the venv.
    """
    if name == MAIN:
        return sys.executable
    found = state(name)
    if found != "ready":
        raise MissingEnvironment(
            f"environment: {name!r} is {found}; make it with `python -m scripts.environments --make {name}` "
            "(of all quantizers: `make envs`)"
        )
    return str(folder(name) / "bin" / "python")


def make(name: str, python: str | None = None) -> None:
    """Make the venv of an environment from its pins; nothing is done when it is ready. ValueError when pip fails."""
    if state(name) == "ready":
        return
    place = folder(name)
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([python or base_python(), "-m", "venv", str(place)], check=True)
    tool = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*tool, "-r", str(pins(name))])
    if done.returncode:
        shutil.rmtree(place, ignore_errors=True)
        raise ValueError(f"environment: pip could not install envs/{name}.txt (its own message is above)")
    (place / MARK).write_text(digest(name) + "\n", encoding="utf-8")


def base_python() -> str:
    """The interpreter that this one's venv was made with; a venv made of a venv would break with it."""
    return getattr(sys, "_base_executable", None) or sys.executable
