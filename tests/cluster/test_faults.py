"""What clusters do to a sweep, on a real Slurm: each run ends in the same bits as an undisturbed one on one machine.

Trainings are hit in their middle: while a job runs that has saved a state since it started. What Slurm queues again by itself
(requeue, preemption, a lost node) needs no retry; what ends as failed (cancelled, killed, out of time, out of memory) is tried
again by Snakemake with more of both.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections import namedtuple
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest
from processes import command_line, is_alive, wait_until
from sweep import LIMIT, LOCAL, Sweep, kill_group

from slurm import why_not

Hit = namedtuple("Hit", "job node pid run")


def hit(cluster, sweep, rule: str, program: str) -> Hit:
    """A running job of a rule whose training has saved a state since it started."""
    end, first = time.monotonic() + 900, {}
    while time.monotonic() < end:
        for job in cluster.jobs("RUNNING").values():
            if not job["comment"].startswith(f"rule_{rule}"):
                continue
            for pid in cluster.processes(job["id"], f"scripts.{program} --spec"):
                words = command_line(pid).split()
                if "--out" not in words:
                    continue
                run = words[words.index("--out") + 1]
                if sweep.steps(run) > first.setdefault(pid, sweep.steps(run)) and is_alive(pid):
                    return Hit(job["id"], job["node"], pid, run)
        time.sleep(0.2)
    raise AssertionError(f"no job of {rule} has trained:\n{sweep.log()}")


def state_of(cluster, job: str) -> str:
    return cluster.jobs().get(job, {"state": "forgotten"})["state"]


def over(cluster, sweep, target: Hit) -> str:
    """Wait until a job's run is over (it may be queued again), with a saved state; returns the job's state."""
    end = time.monotonic() + 300
    while (state := state_of(cluster, target.job)) in ("RUNNING", "COMPLETING") or is_alive(target.pid):
        assert time.monotonic() < end, f"job {target.job} is still {state}"
        time.sleep(0.3)
    assert sweep.steps(target.run), "the training came to its end before it was hit"
    return state


@contextmanager
def running(snakemake):
    """A Snakemake that is killed when the block fails."""
    try:
        yield snakemake
    except BaseException:
        kill_group(snakemake)
        raise


def same(sweep, reference, hits=()) -> None:
    """The sweep ended in the same bits, left nothing half-written, and went on where its trainings were hit."""
    assert sweep.digests() == reference and not sweep.half_written()
    resumed = sweep.resumed()
    for target in hits:
        run = os.path.relpath(sweep.folder / target.run, sweep.results)
        assert resumed[run] > 0, f"{run} began anew"


def test_undisturbed_sweep_equals_local_and_locks_its_folder(cluster, reference, tmp_path):
    """The whole sweep through `--profile slurm`; a second Snakemake on the folder is told so; a second run has nothing to do."""
    sweep = Sweep(tmp_path)
    with running(sweep.slurm(cluster)) as first:
        training = hit(cluster, sweep, "base", "train")
        assert "GRES=gpu:fake:1(IDX:" in cluster.run("scontrol", "show", "job", "-d", training.job).stdout, "no GPU was assigned"
        second = subprocess.run(first.args, cwd=tmp_path, env=cluster.env, capture_output=True, text=True, timeout=LIMIT)
        assert second.returncode != 0 and "cannot be locked" in second.stdout + second.stderr
    sweep.finish(first, LIMIT)
    same(sweep, reference)
    again = subprocess.run(first.args, cwd=tmp_path, env=cluster.env, capture_output=True, text=True, timeout=LIMIT)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr
    assert list((tmp_path / "logs/slurm").glob("efficiency_report_*.csv"))


def test_jobs_cancelled_requeued_preempted_killed_out_of_time_and_out_of_memory(cluster, reference, tmp_path):
    """Too little memory, scancel, scontrol requeue, preemption, kill -9, a time limit: each on a training of one sweep."""
    sweep = Sweep(tmp_path)
    # Enough for Snakemake, too little for a training, at the first attempt.
    with running(sweep.slurm(cluster, "--set-resources", "base:mem_mb=400 if attempt == 1 else 4000")) as snakemake:
        hits = [hit(cluster, sweep, "reference", "train")]
        cluster.run("scancel", hits[-1].job)
        assert over(cluster, sweep, hits[-1]) == "CANCELLED"

        hits.append(hit(cluster, sweep, "unlearn", "unlearn"))
        cluster.run("scontrol", "requeue", hits[-1].job)
        over(cluster, sweep, hits[-1])

        hits.append(hit(cluster, sweep, "unlearn", "unlearn"))
        os.kill(hits[-1].pid, signal.SIGKILL)
        assert over(cluster, sweep, hits[-1]) == "FAILED"

        hits.append(hit(cluster, sweep, "unlearn", "unlearn"))
        soon = datetime.now() + timedelta(seconds=1)
        os.kill(hits[-1].pid, signal.SIGSTOP)  # as slow as a large model: Slurm looks at limits every 30 s
        cluster.run("scontrol", "update", f"jobid={hits[-1].job}", f"EndTime={soon:%Y-%m-%dT%H:%M:%S}")
        wait_until(lambda: state_of(cluster, hits[-1].job) != "RUNNING", 120, "the time limit")
        os.kill(hits[-1].pid, signal.SIGCONT)
        assert over(cluster, sweep, hits[-1]) in ("TIMEOUT", "FAILED")  # FAILED: the program saved and ended before the kill

        hits.append(hit(cluster, sweep, "unlearn", "unlearn"))
        every = ["--wrap", "sleep 1", "--mem=100", f"--cpus-per-task={cluster.cpus}", "--output=/dev/null"]
        cluster.run("sbatch", "-p", "urgent", "-w", hits[-1].node, *every)
        over(cluster, sweep, hits[-1])
    sweep.finish(snakemake, LIMIT)
    same(sweep, reference, hits)
    assert "'CANCELLED'" in sweep.log(10**9), "the cancelled job was not noticed"
    assert "Error in rule base:" in sweep.log(10**9) and "exceeded memory limit" in cluster.logs(10**6)


def test_lost_nodes_controller_and_squeue(bare_cluster, reference, tmp_path):
    """A node lost, one set down, slurmctld killed and started again, squeue failing for a while; without accounting."""
    cluster, sweep = bare_cluster, Sweep(tmp_path)
    with running(sweep.slurm(cluster)) as snakemake:
        hit(cluster, sweep, "base", "train")
        mend = cluster.break_command("squeue")
        told = sweep.wait_for("asking again at the next poll")
        mend()
        assert told, "no poll fell into the outage of squeue"

        hit(cluster, sweep, "reference", "train")
        cluster.kill_controller()
        told = sweep.wait_for("asking again at the next poll", times=2)
        cluster.start_controller()
        assert told, "no poll fell into the outage of slurmctld"

        hits = [hit(cluster, sweep, "unlearn", "unlearn")]
        cluster.kill_node(hits[-1].node)
        over(cluster, sweep, hits[-1])
        cluster.start_node(hits[-1].node)

        hits.append(hit(cluster, sweep, "unlearn", "unlearn"))
        cluster.run("scontrol", "update", f"nodename={hits[-1].node}", "state=down", "reason=test")
        over(cluster, sweep, hits[-1])
        cluster.resume_node(hits[-1].node)
    sweep.finish(snakemake, LIMIT)
    same(sweep, reference, hits)


def test_killed_snakemake_goes_on(cluster, reference, finished):
    """kill -9 to Snakemake while its jobs run: the next start computes what is missing and nothing else."""
    sweep = finished.without("people/*/*/seed0", "people/**/eval")
    before = {p: p.stat().st_mtime_ns for p in sweep.results.rglob("outcome.json")}
    snakemake = sweep.slurm(cluster)
    try:
        target = hit(cluster, sweep, "unlearn", "unlearn")
    finally:
        kill_group(snakemake)
    cluster.run("scancel", "--name", cluster.jobs("RUNNING")[target.job]["name"])
    over(cluster, sweep, target)
    sweep.unlock()
    sweep.finish(sweep.slurm(cluster), LIMIT)
    same(sweep, reference, [target])
    assert {p: p.stat().st_mtime_ns for p in before} == before, "something done was computed again"


def test_twenty_kills_at_random_points_on_one_machine(reference, tmp_path):
    """The local profile killed 20 times with all its jobs, at seeded moments: the same bits at the end."""
    sweep, chance = Sweep(tmp_path), random.Random(0)
    kills = 0
    while kills < 20:
        snakemake = sweep.start("local", *LOCAL)
        try:
            code = snakemake.wait(chance.uniform(2, 12))
        except subprocess.TimeoutExpired:
            kill_group(snakemake)
            kills += 1
            sweep.unlock()
        else:  # done before all kills: once more from the start
            assert code == 0, sweep.log()
            same(sweep, reference)
            shutil.rmtree(sweep.results)
    sweep.local()
    same(sweep, reference)


def test_full_disk(reference, tmp_path):
    """A results folder without space: the message says so, nothing is half-written, and the run goes on after space is made."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    sweep = Sweep(tmp_path)
    disk = tmp_path / "results"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=420k", "tmpfs", str(disk)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
    try:
        sweep.local("--retries", "0", expect=1)
        logs = sweep.log(10**9) + "".join(p.read_text(errors="replace") for p in disk.rglob("*.log"))
        assert "No space left on device" in logs
        assert set(sweep.digests().items()) <= set(reference.items()) and not sweep.half_written()
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        sweep.local()
        assert sweep.digests() == reference
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_reason_for_skipping_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("shutil.which", lambda *a, **k: None)
    assert "packages.txt" in why_not()
