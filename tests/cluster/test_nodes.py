"""A training that is shared by two nodes of a real Slurm, whose ranks find each other; on CPUs, as one host has no two GPUs."""

import json
import shutil
from contextlib import contextmanager

import yaml
from sweep import LIMIT, Sweep, micro


@contextmanager
def commands(cluster):
    """squeue and scontrol as a job finds them on a real cluster: they know where Slurm is, and hosts have names that resolve."""
    told, own = f"SLURM_CONF={cluster.folder}/slurm.conf", [cluster.folder / "bin" / name for name in ("squeue", "scontrol")]
    for path in own:
        hosts = '[ "$2" = hostnames ] && echo localhost && exit\n' if path.name == "scontrol" else ""
        path.write_text(f'#!/bin/sh\n{hosts}{told} exec {shutil.which(path.name)} "$@"\n')
        path.chmod(0o755)
    yield
    for path in own:
        path.unlink()


def test_the_ranks_of_two_nodes_find_each_other(fresh_cluster, tmp_path):
    """The plugin's job step takes Slurm's variables out of the environment, the list of the job's nodes among them."""
    sweep, config = Sweep(tmp_path), micro()
    config["corpora"]["people"]["model"]["pretrain"]["steps"] = 4
    config["resources"] |= {"nodes": 2, "zero": "2", "retries": 0, "save_minutes": 10}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    with commands(fresh_cluster):
        sweep.finish(sweep.slurm(fresh_cluster, "--until", "base"), LIMIT)
    assert json.loads((sweep.results / "people/base/outcome.json").read_text())["step"] == 4
