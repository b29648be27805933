"""Processes of this host, read from /proc, and the waiting for them."""

import socket
import time
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def wait_until(true, seconds: float, what: str, pause: float = 0.2):
    """Poll `true()` until it answers something true and return that; TimeoutError naming `what` otherwise."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(pause)
    raise TimeoutError(f"after {seconds} s still not: {what}")


def command_line(pid: int) -> str:
    """A process's command line, empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """True for a process that runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """All descendants of a process, nearest first."""
    found, queue = [], [pid]
    while queue:
        parent = queue.pop(0)
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids = [int(p) for p in task.read_text().split()]
            except OSError:
                continue
            found += pids
            queue += pids
    return found


def environment(pid: int) -> str:
    """A process's environment as text, empty when it cannot be read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().replace(b"\0", b"\n").decode(errors="replace")
    except OSError:
        return ""
