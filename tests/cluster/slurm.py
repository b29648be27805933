"""A whole Slurm on this host, below one temporary folder, for tests that need the real thing.

munge, MariaDB, slurmdbd, slurmctld and several slurmd run without systemd and without touching the host's own configuration:
sockets, keys, spools, logs and pid files all lie in the cluster's folder. Every interval is as short as Slurm allows, so that
a lost node or a passed time limit shows in seconds. Nodes are slurmd processes with names and ports of their own on one host,
so that a node can be lost alone. GPUs are plain files that gres.conf names: Slurm counts and assigns them as it would real ones.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import slurm_files
from leftovers import LEFTOVERS, end_all
from processes import children, command_line, environment, free_ports, wait_until
from slurm_files import PASSWORD

NEEDED = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "squeue", "sacct", "scontrol", "sacctmgr", "munged", "mariadbd")
START = 120  # seconds that a daemon may take to start or a node to come back on a loaded machine


def why_not() -> str | None:
    """Reason why no cluster can be started here, or None."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if missing:
        return f"Slurm is not installed: no {', '.join(missing)} (tests/cluster/packages.txt lists the Debian packages)"
    if os.geteuid() != 0:
        return "slurmd needs root to start jobs"
    return None


class Cluster:
    """A Slurm of `nodes` nodes, each with `cpus` CPUs (may exceed the host's), `memory_mb` and `gpus` fake GPUs.

    `accounting=False` leaves out MariaDB and slurmdbd: the cluster on which only squeue knows a job's state.
    """

    def __init__(self, nodes=3, cpus=4, memory_mb=4000, gpus=2, accounting=True, min_job_age=300, kill_wait=10):
        self.folder = Path(tempfile.mkdtemp(prefix=LEFTOVERS))
        self.folder.chmod(0o755)
        for name in ("run", "log", "state", "spool", "gpu", "bin"):
            (self.folder / name).mkdir()
        (self.folder / "run" / "owner.pid").write_text(str(os.getpid()))
        shutil.copy(self.folder / "run" / "owner.pid", self.folder / "owner.pid")
        self.nodes = [f"n{i}" for i in range(1, nodes + 1)]
        self.cpus, self.memory_mb, self.gpus = cpus, memory_mb, gpus
        self.accounting, self.min_job_age, self.kill_wait = accounting, min_job_age, kill_wait
        self.daemons: dict[str, subprocess.Popen] = {}
        self.env = dict(os.environ)
        self.env["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self.env["PATH"] = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        for key in [k for k in self.env if k.startswith(("SLURM_", "SBATCH_", "SRUN_")) and k != "SLURM_CONF"]:
            del self.env[key]

    # -- daemons

    def configure(self) -> None:
        """Choose ports, and write the files of configuration."""
        self.controller_port, self.database_port, self.accounting_port, *self.node_ports = free_ports(3 + len(self.nodes))
        slurm_files.write(self)

    def spawn(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of a session of its own, its output in log/<name>.out."""
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        (self.folder / "run" / f"spawned-{name}.pid").write_text(str(self.daemons[name].pid))

    def end(self, name: str, how=signal.SIGTERM, seconds=10) -> None:
        """End a daemon: politely, then by SIGKILL after `seconds`."""
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(how)
        try:
            daemon.wait(seconds)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def start(self) -> "Cluster":
        """Start everything and return when all nodes are idle."""
        try:
            self.configure()
            self.start_munge()
            if self.accounting:
                self.start_accounting()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node, wait=False)
            wait_until(lambda: [s for _, s in self.node_states()] == ["idle"] * len(self.nodes), START, "all nodes idle", pause=0.5)
        except BaseException as error:
            error.add_note(self.logs())
            self.stop()
            raise
        return self

    def logs(self, lines=15) -> str:
        """The end of every daemon's log, for the message of a failed start."""
        files = sorted((self.folder / "log").iterdir())
        return "\n".join(f"--- {f.name}\n" + "\n".join(f.read_text(errors="replace").splitlines()[-lines:]) for f in files)

    def start_munge(self) -> None:
        key = self.folder / "run" / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        at = self.folder
        self.spawn(
            "munged", "munged", "--foreground", "--force", f"--socket={at}/run/munge.socket", f"--key-file={key}",
            f"--pid-file={at}/run/munged.pid", f"--log-file={at}/log/munged.log", f"--seed-file={at}/run/munge.seed",
        )  # fmt: skip
        wait_until((at / "run" / "munge.socket").exists, START, "munge's socket")

    def start_accounting(self) -> None:
        at, data = self.folder, self.folder / "database"
        self.run(
            "mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db",
            "--auth-root-authentication-method=normal",
        )  # fmt: skip
        self.spawn(
            "mariadbd", "mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", "--bind-address=127.0.0.1",
            f"--port={self.database_port}", f"--socket={at}/run/database.socket", f"--pid-file={at}/run/mariadbd.pid",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900",
        )  # fmt: skip
        client = ["mariadb", "--no-defaults", "-uroot", f"--socket={at}/run/database.socket", "-e"]
        wait_until(lambda: self.run(*client, "select 1", check=False).returncode == 0, START, "MariaDB answers")
        self.run(*client, f"create user slurm@'127.0.0.1' identified by '{PASSWORD}'")
        self.run(*client, "grant all on accounting.* to slurm@'127.0.0.1'")
        self.start_database()
        self.run("sacctmgr", "-i", "add", "cluster", "test")
        self.run("sacctmgr", "-i", "add", "account", "lab", "Description=tests", "Organization=tests")
        self.run("sacctmgr", "-i", "add", "user", "root", "Account=lab")

    def start_database(self) -> None:
        """Start slurmdbd; its database runs already."""
        self.spawn("slurmdbd", "slurmdbd", "-D")
        wait_until(lambda: self.run("sacctmgr", "-n", "show", "cluster", check=False).returncode == 0, START, "slurmdbd answers")

    def start_controller(self) -> None:
        """Start slurmctld, with the jobs it knew before."""
        self.spawn("slurmctld", "slurmctld", "-D")
        wait_until(lambda: self.run("scontrol", "ping", check=False).stdout.count("UP"), START, "slurmctld answers")

    def kill_controller(self) -> None:
        """SIGKILL to slurmctld, as when its host fails, once it has saved that the jobs which run have started.

        It saves within five seconds. If it came back without knowing of them, it would drain their nodes and hold the jobs until an
        administrator releases them: another accident than the one that is tested.
        """
        starts = self.run("squeue", "-h", "--states=RUNNING", "-o", "%S").stdout.split()
        last = max((datetime.fromisoformat(start).timestamp() for start in starts), default=0)
        state = self.folder / "state" / "job_state"
        wait_until(lambda: time.time() > last + 8 or state.stat().st_mtime > last + 1, START, "slurmctld has saved its jobs")
        self.end("slurmctld", signal.SIGKILL)

    def start_node(self, node: str, wait=True) -> None:
        """Start a node's slurmd, cold: what ran there before is gone."""
        self.spawn(node, "slurmd", "-D", "-c", "-N", node)
        if wait:
            wait_until(lambda: self.node_up(node), START, f"{node} back")

    def node_up(self, node: str) -> bool:
        """Whether a node takes jobs."""
        return dict(self.node_states()).get(node) in ("idle", "mixed", "allocated")

    def resume_node(self, node: str) -> None:
        """Bring a node back that was set down; it may be back already (ReturnToService=2: it only has to register)."""

        def back():
            if not self.node_up(node):
                self.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
            return self.node_up(node)

        wait_until(back, START, f"{node} back", pause=1)

    def kill_node(self, node: str) -> None:
        """Lose a node: SIGKILL to its slurmd and to all that ran on it. Its spool stays: slurmd -c clears it."""
        steps = self.steps_of(node)
        lost = [*steps, *(child for step in steps for child in children(step))]
        self.end(node, signal.SIGKILL)
        for pid in lost:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def steps_of(self, node: str) -> list[int]:
        """The slurmstepd processes of a node's jobs."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and "slurmstepd" in command_line(int(entry.name)):
                pids = [int(entry.name), *children(int(entry.name))]
                if any(f"SLURMD_NODENAME={node}\n" in environment(p) and str(self.folder) in environment(p) for p in pids):
                    found.append(int(entry.name))
        return found

    def break_command(self, name: str):
        """Make a Slurm command fail, as when the controller is overloaded, until the returned function is called."""
        wrapper = self.folder / "bin" / name
        wrapper.write_text(f"#!/bin/sh\necho '{name}: error: Unable to contact slurm controller' >&2\nexit 1\n")
        wrapper.chmod(0o755)
        return lambda: wrapper.unlink(missing_ok=True)

    def stop(self) -> None:
        """End all jobs and daemons and remove the folder."""
        if "slurmctld" in self.daemons:
            self.run("scancel", "-u", "root", "--signal=KILL", check=False)
            self.run("scancel", "-u", "root", check=False)
        for name in [*self.nodes, "slurmctld", "slurmdbd", "mariadbd", "munged"]:
            self.end(name, seconds=5)
        end_all(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- questions and commands

    def run(self, *command: str, check=True, timeout=60, **more) -> subprocess.CompletedProcess:
        """Run a command in the cluster's environment, its output as text."""
        done = subprocess.run(command, env=self.env, text=True, capture_output=True, timeout=timeout, **more)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr or done.stdout}")
        return done

    def node_states(self) -> list[tuple[str, str]]:
        """(node, state) of all nodes, states without their flags."""
        lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False).stdout.split("\n")
        return [(line.split()[0], line.split()[1].rstrip("*~#!%$@^-+")) for line in lines if line.strip()]

    def jobs(self, *states: str) -> dict[str, dict]:
        """Jobs the controller remembers: {job: {state, name, comment, node, restarts}}, of `states` when any are named."""
        fields = ("id", "state", "name", "comment", "node")
        done = self.run("squeue", "-h", "-a", "--states=all", "-o", "%i|%T|%j|%k|%N", check=False)
        found = {}
        for line in done.stdout.splitlines():
            job = dict(zip(fields, line.split("|"), strict=True))
            if not states or job["state"] in states:
                found[job["id"]] = job
        return found

    def processes(self, job: str, match: str) -> list[int]:
        """Pids of a job's processes whose command line contains `match`."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and match in command_line(int(entry.name)):
                text = environment(int(entry.name))
                if f"SLURM_JOB_ID={job}\n" in text and str(self.folder) in text:
                    found.append(int(entry.name))
        return found
