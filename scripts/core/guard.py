"""One Snakemake at a time in a results folder, wherever each was started.

Snakemake's own lock lies in the folder where it was started: two clones of a project that share a results folder do not see each
other, and remove each other's files. So a file in the results folder tells who writes there. It is made when jobs are about to
start (not by a dry run) and removed when the process ends. One that was left behind, by kill -9 say, is in nobody's way where that
can be told: its process of this host is gone, or it was started in the same folder, where Snakemake's lock decides.
"""

import atexit
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from scripts.core.storage import dumps, read_object, write_json

NAME = ".running.json"


class InUse(ValueError):
    """One line: who writes to the results folder, and what helps where that is no longer so."""


def claim(results) -> None:
    """Have the results folder for this process until it ends; InUse where another one has it. One that is read-only stays so."""
    path, own = Path(results).absolute() / NAME, this_process()  # at its end Snakemake is elsewhere
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(dumps(own))
        except FileExistsError:
            other = read_object(path)
            same_folder = other.get("folder") == own["folder"]
            if same_folder and alive(other):
                return  # both have Snakemake's lock, for different files
            if not same_folder and (other.get("host") != own["host"] or alive(other)):
                raise InUse(told(path, other)) from None
            write_json(path, own)
    except OSError:
        return
    atexit.register(release, path, own)


def release(path: Path, own: dict) -> None:
    """Remove the file if it is still this process's."""
    if read_object(path) == own:
        path.unlink(missing_ok=True)


def this_process() -> dict:
    """{"host", "pid", "born" (UTC), "folder"}."""
    import psutil

    born = datetime.fromtimestamp(psutil.Process().create_time(), UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": born, "folder": os.getcwd()}


def alive(other: dict) -> bool:
    """Whether a process of this host still runs: one with its number that was born at its time, give or take a second."""
    import psutil

    try:
        born = psutil.Process(other["pid"]).create_time()
        return other["host"] == socket.gethostname() and abs(born - datetime.fromisoformat(other["born"]).timestamp()) < 2
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def told(path: Path, other: dict) -> str:
    """The line for a folder that is in use."""
    who = f"process {other.get('pid')} on {other.get('host')}, started in {other.get('folder')} at {other.get('born')}"
    return f"{path.parent}: another Snakemake writes there ({who}); wait for its end, or where it no longer runs: rm {path}"
