"""The micro sweep in a folder of its own, run by the profiles a user has, and the digests of what it made."""

import copy
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
LIMIT = 1200  # seconds after which a run counts as stuck; generous, since a loaded machine is several times slower
STEPS = 150  # of each training; a state is saved after every one, so that a kill may fall into the middle of a save
LOCAL = ["--cores", "2", "--resources", "gpu=2", "mem_mb=16000"]
FAST = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5"]  # as short as Slurm's own intervals here


def micro() -> dict:
    """The micro sweep with two cells, trainings of some seconds, and GPUs asked for (the cluster's are plain files)."""
    config = copy.deepcopy(yaml.safe_load((ROOT / "tests/workflow/micro.yaml").read_text()))
    config["sweep"] = [
        {"corpus": "people", "method": ["ga"], "regularizer": ["gdr"]},
        {"corpus": "people", "method": ["npo"], "regularizer": ["none"]},
    ]
    config["unlearning"]["max_steps"] = STEPS
    for recipe in ("pretrain", "finetune"):
        config["corpora"]["people"]["model"][recipe]["steps"] = STEPS
    config["resources"] = {"gpus": 1, "threads": 1, "max_mem_mb": 6000, "retries": 3, "save_minutes": 0}
    return config


class Sweep:
    """A folder with the micro sweep's configuration and results."""

    def __init__(self, folder: Path, results="results/micro"):
        self.folder = folder
        config = micro()
        config["results"] = results
        self.results = folder / results
        (folder / "sweep.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def start(self, profile: str, *arguments, env=os.environ) -> subprocess.Popen:
        """Start Snakemake with a profile of the project, in a session of its own, its output in snakemake.log."""
        command = [
            str(Path(sys.executable).parent / "snakemake"), "scores", "--profile", str(ROOT / "profiles" / profile),
            "--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.folder),
            "--configfile", str(self.folder / "sweep.yaml"), *arguments,
        ]  # fmt: skip
        with open(self.folder / "snakemake.log", "ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.folder,
                env={**env, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )  # fmt: skip

    def finish(self, snakemake: subprocess.Popen, seconds: float, expect=0) -> None:
        """Wait for Snakemake's end; its exit code must be `expect`."""
        try:
            code = snakemake.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_group(snakemake)
            raise AssertionError(f"Snakemake still runs after {seconds} s:\n{self.log()}") from None
        assert code == expect, f"Snakemake's exit code is {code}:\n{self.log()}"

    def local(self, *arguments, seconds=LIMIT, expect=0) -> None:
        """Run to the end on this machine."""
        self.finish(self.start("local", *LOCAL, *arguments), seconds, expect)

    def slurm(self, cluster, *arguments) -> subprocess.Popen:
        """Start on a cluster; states from sacct where it has accounting."""
        status = ["--slurm-status-command", "sacct" if cluster.accounting else "squeue"]
        return self.start("slurm", "--jobs", "4", *FAST, *status, *arguments, env=cluster.env)

    def unlock(self) -> None:
        """What a user does after Snakemake was killed."""
        self.finish(self.start("local", "--cores", "1", "--unlock"), 200)

    def log(self, characters=6000) -> str:
        """The end of what Snakemake has said."""
        return (self.folder / "snakemake.log").read_text(errors="replace")[-characters:]

    def wait_for(self, text: str, times=1, seconds=120) -> bool:
        """Wait until Snakemake has said something so often; False when it has not in time."""
        end = time.monotonic() + seconds
        while self.log(10**9).count(text) < times:
            if time.monotonic() > end:
                return False
            time.sleep(0.3)
        return True

    def digests(self) -> dict[str, str]:
        """Path and digest of everything that counts: outcomes, weights, metric files (without provenance), the table."""
        found = {}
        for path in sorted(self.results.rglob("*")):
            name = str(path.relative_to(self.results))
            if path.name in ("outcome.json", "model.safetensors", "scores.csv"):
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif path.parent.parent.name == "eval" and path.suffix == ".json":
                content = json.loads(path.read_text())
                content.pop("provenance")
                found[name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return found

    def half_written(self) -> list[str]:
        """Files and folders of unfinished writes."""
        return [str(p) for p in self.results.rglob("*.partial*")]

    def resumed(self) -> dict[str, int]:
        """The step that each training went on from when it was last started; 0 where nothing had to be resumed."""
        records = {p.parent: json.loads(p.read_text()) for p in self.results.rglob("run.json")}
        return {str(run.relative_to(self.results)): record["resumed"] for run, record in records.items()}

    def steps(self, run: str) -> int:
        """The newest saved state of a training; 0 when there is none. run: its folder below this sweep's."""
        states = (self.folder / run / ".resume").glob("step-*")
        return max((int(state.name.removeprefix("step-")) for state in states), default=0)

    def without(self, *patterns: str) -> "Sweep":
        """Remove files and folders of the results, by patterns, and with them the tables that are made of them."""
        for path in [p for pattern in (*patterns, "scores.*", "recovery.csv") for p in self.results.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)  # it may have gone with a folder above
        return self


def kill_group(process: subprocess.Popen) -> None:
    """SIGKILL to a process and all that it started in its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
