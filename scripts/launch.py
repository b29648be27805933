"""Start a training program: by itself on one GPU, else one process per GPU on one or several nodes, through torchrun.

usage: python -m scripts.launch --gpus 8 [--nodes 2] [--zero auto] [--offload auto] [--gpu-gb 80] scripts.unlearn --spec …

On one GPU (or none) the program takes this process's place: nothing else runs. On several nodes, within a Slurm job, srun
starts this launcher once per node and torchrun's processes meet at the job's first node. `--zero auto` takes the stage
from the memory plan (scripts/core/planning/memory.py).

SIGTERM and SIGUSR1 are passed to the ranks themselves, not to torchrun, which would leave them 30 seconds. The ranks save
their state together and end; the exit code is then that of a single process, 143 or 75.
"""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from scripts.core import devices, process


def parser() -> argparse.ArgumentParser:
    """The launcher's own options, then the program and its arguments."""
    arguments = argparse.ArgumentParser(
        prog="python -m scripts.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--gpus", type=int, default=1, help="GPUs per node, one process each; 0 and 1 start one process")
    arguments.add_argument("--nodes", type=int, default=1, help="nodes of the Slurm job that take part")
    arguments.add_argument("--zero", choices=("auto", "2", "3"), default="auto", help="ZeRO stage; auto: the first that fits")
    arguments.add_argument("--offload", choices=("auto", "none", "cpu"), default="auto", help="where ZeRO keeps optimiser state")
    arguments.add_argument("--gpu-gb", type=float, default=80.0, help="memory of a GPU in GB, for auto")
    arguments.add_argument("--on-node", action="store_true", help=argparse.SUPPRESS)
    arguments.add_argument("program", help="module of the program, e.g. scripts.unlearn")
    arguments.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    return arguments


def given(options) -> tuple[dict, dict]:
    """(options of the program by name, its spec)."""
    from scripts.core import storage

    named = {name: options.arguments[i + 1] for i, name in enumerate(options.arguments[:-1]) if name.startswith("--")}
    if "--spec" not in named:
        raise ValueError("--spec: missing; allowed: the spec of a training, after the program's name")
    return named, storage.read_json(named["--spec"])


def shared(options) -> bool:
    """Whether the program's run is a training, which several processes share; copies and arithmetic are done by one."""
    from scripts.core.planning import placement

    return placement.is_training(given(options)[1])


def sharding(options) -> tuple[int, str]:
    """(stage, offload) of a training on several GPUs. ValueError when `auto` finds nothing that fits."""
    from scripts.core.planning import memory, placement

    named, spec = given(options)
    start = named.get("--target") or named.get("--base")
    shape = memory.shape_of(spec, Path(start) / "checkpoint" if start else None)
    return placement.choose(
        shape, memory.Training.of(spec), options.gpus * options.nodes, options.gpu_gb, options.zero, options.offload
    )


def torchrun(options, environment) -> list[str]:
    """The command that starts this node's ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={options.gpus}", "--signals-to-handle=SIGINT"]
    if options.nodes == 1:
        command += ["--standalone"]
    else:
        job, first = environment["SLURM_JOB_ID"], environment["LAUNCH_FIRST_NODE"]
        port = 20000 + int(job) % 20000
        command += [f"--nnodes={options.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={first}:{port}", f"--rdzv-id={job}"]
        command += [f"--rdzv-conf=is_host={environment['SLURM_NODEID'] == '0'}"]
    return [*command, "-m", options.program, *options.arguments, "--zero", options.zero, "--offload", options.offload]


def srun(options, cores: str | None) -> list[str]:
    """The command that starts this launcher once on each node of the job, with so many cores (None: srun's default of one)."""
    command = ["srun", "--overlap", f"--nodes={options.nodes}", f"--ntasks={options.nodes}", "--ntasks-per-node=1"]
    command += ["--kill-on-bad-exit=0", "--export=ALL"]  # a node that ends on a signal lets the others save
    if cores:
        command += [f"--cpus-per-task={cores}"]
    own = ["--gpus", str(options.gpus), "--nodes", str(options.nodes), "--zero", options.zero, "--offload", options.offload]
    return [*command, sys.executable, "-m", "scripts.launch", "--on-node", *own, options.program, *options.arguments]


def first_node(environment) -> str:
    """The first host of the Slurm job. ValueError outside one.

    Of what Slurm tells a job, Snakemake's plugin (jobstep 0.6) leaves little beside its number in the environment.
    """

    def said(*command):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    job = environment.get("SLURM_JOB_ID")
    hosts = job and (environment.get("SLURM_JOB_NODELIST") or said("squeue", "--noheader", f"--jobs={job}", "--format=%N"))
    if not hosts:
        raise ValueError("resources.nodes: several nodes need a Slurm job; allowed: 1, or a run with the slurm profile")
    return said("scontrol", "show", "hostnames", hosts).split()[0]


def forward(process, number, through_srun: bool) -> None:
    """Pass a signal on to the ranks; to srun as SIGUSR1, which it hands to its tasks (at SIGTERM it kills them)."""
    if through_srun:
        process.send_signal(signal.SIGUSR1)
        return
    import psutil

    try:
        ranks = psutil.Process(process.pid).children()
    except psutil.NoSuchProcess:
        return
    for rank in ranks:
        try:
            rank.send_signal(number)
        except psutil.NoSuchProcess:
            continue
    if not ranks:  # none was started yet: there is nothing to save
        process.kill()


def run(command, environment, through_srun=False) -> int:
    """Run a command to its end, passing signals on; its exit code, or that of the signal that ended it."""
    from scripts.core.training.resume import EXIT_CODES

    noted, process = [], None

    def note(number, frame):
        noted.append(signal.Signals(number))
        if process:
            forward(process, number, through_srun)

    def deaf():
        """A scheduler signals every process of a job: torchrun must not end before its ranks have saved."""
        for number in EXIT_CODES:
            signal.signal(number, signal.SIG_IGN)

    for number in EXIT_CODES:
        signal.signal(number, note)
    process = subprocess.Popen(command, env=environment, preexec_fn=None if through_srun else deaf)
    if noted:
        forward(process, noted[0], through_srun)
    code = process.wait()
    return EXIT_CODES[noted[0]] if noted and code else code


def launch(options, environment) -> int:
    """Run the ranks of a training on several GPUs."""
    if options.on_node or options.nodes == 1:
        devices.check_count(options.gpus, environment)
    if options.on_node:
        return run(torchrun(options, environment), environment)
    stage, offload = sharding(options)
    options.zero, options.offload = str(stage), offload
    cores = environment.get("SLURM_CPUS_PER_TASK") or environment.get("OMP_NUM_THREADS")  # the second is the rule's threads
    threads = max(1, int(environment.get("OMP_NUM_THREADS", options.gpus)) // options.gpus)
    environment = {**environment, "OMP_NUM_THREADS": str(threads)}
    if options.nodes == 1:
        return run(torchrun(options, environment), environment)
    environment["LAUNCH_FIRST_NODE"] = first_node(environment)
    return run(srun(options, cores), environment, through_srun=True)


@process.guarded
def main(argv=None) -> int:
    """Run the program; its exit code, or 2 with one line when it can't be started as asked."""
    options = parser().parse_args(argv)
    training = options.on_node or "--spec" not in options.arguments or shared(options)
    if training and (options.on_node or options.nodes == 1):
        devices.check_given(options.gpus)
    if training and not options.on_node and options.nodes == 1:
        devices.claim(max(1, options.gpus))
    if training and options.gpus * options.nodes > 1:
        return launch(options, dict(os.environ))
    os.execv(sys.executable, [sys.executable, "-m", options.program, *options.arguments])


if __name__ == "__main__":
    sys.exit(main())
