"""The clusters, and one undisturbed run that every faulty one is compared with."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from leftovers import sweep_leftovers  # noqa: E402
from sweep import Sweep  # noqa: E402

import slurm  # noqa: E402  (this folder is no package: its files are found through the line above)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Sweep:
    """The micro sweep, run once without a fault by the local profile."""
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"))
    sweep.local()
    return sweep


@pytest.fixture(scope="session")
def reference(undisturbed) -> dict[str, str]:
    """Digests of the undisturbed run."""
    return undisturbed.digests()


@pytest.fixture
def finished(undisturbed, tmp_path) -> Sweep:
    """A copy of the undisturbed run, of which a test may take parts away."""
    shutil.copytree(undisturbed.folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("snakemake.log"))
    return Sweep(tmp_path)


def running_cluster(**settings):
    reason = slurm.why_not()
    if reason:
        pytest.skip(reason)
    sweep_leftovers()
    cluster = slurm.Cluster(**settings).start()
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def cluster():
    """Three nodes with accounting: states come from sacct."""
    yield from running_cluster(memory_mb=8000)


@pytest.fixture(scope="session")
def bare_cluster():
    """Three nodes without slurmdbd: only squeue knows."""
    yield from running_cluster(memory_mb=8000, accounting=False)


@pytest.fixture
def fresh_cluster():
    """The same for one test alone: lost nodes leave others drained, as Slurm does where it could not end a job's processes."""
    yield from running_cluster(memory_mb=8000, accounting=False)
