"""What a crashed test session left running on this host: found by its folder below the temporary one, and ended."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

from processes import children, command_line, environment, is_alive

LEFTOVERS = "slurm-test-"  # prefix of every cluster's folder


def sweep_leftovers() -> None:
    """End what a crashed test session left running, by the pid files in its folder, and remove the folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{LEFTOVERS}*"):
        owner = folder / "owner.pid"
        if owner.exists() and is_alive(int(owner.read_text())):
            continue  # another session's cluster, in use
        end_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


def end_all(folder: Path) -> None:
    """SIGKILL every daemon whose pid file lies in `folder`, and every process whose environment names it, orphans too."""
    pids = []
    for file in folder.glob("run/*.pid"):
        text = file.read_text().strip()
        # a pid may have been given to another program since: only a command line that names the folder counts
        if text.isdigit() and str(folder) in command_line(int(text)) + environment(int(text)):
            pids.append(int(text))
    others = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and int(p.name) != os.getpid()]
    pids += [p for p in others if str(folder) in environment(p)]
    for pid in dict.fromkeys([*pids, *(c for p in pids for c in children(p))]):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
