"""The profiles name options that the installed Snakemake and its Slurm plugin know, those in comments included; what the pages
about clusters say to write into them, or to type, does what they say.
"""

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
PLUGINS_OWN = {f"slurm-{field.name.replace('_', '-')}" for field in dataclasses.fields(plugin.ExecutorSettings)}


def named(profile: str) -> set[str]:
    """Keys at the top of a profile, live or behind a comment sign."""
    text = (ROOT / "profiles" / profile / "config.yaml").read_text()
    return set(re.findall(r"^(?:# )?([a-z][a-z-]+):(?= |$)", text, re.M)) | set(yaml.safe_load(text))


@pytest.mark.parametrize("profile", ["slurm", "local", "demo"])
def test_profiles_name_only_options_that_snakemake_or_the_plugin_has(profile):
    from snakemake.cli import get_argument_parser

    known = {option.removeprefix("--") for action in get_argument_parser()._actions for option in action.option_strings}
    assert named(profile) - PLUGINS_OWN <= known
    assert profile != "slurm" or len(named(profile) & PLUGINS_OWN) >= 12


def test_settings_are_accepted_by_the_plugin(monkeypatch):
    monkeypatch.chdir(ROOT)
    live = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    given = {key.removeprefix("slurm-").replace("-", "_"): value for key, value in live.items() if key in PLUGINS_OWN}
    assert plugin.ExecutorSettings(**given).requeue


def test_partitions_are_read_by_the_plugin():
    names = {partition.name for partition in plugin.partitions.read_partition_file(ROOT / "profiles/slurm/partitions.yaml")}
    assert names == {"cpu", "gpu_short", "gpu_long"}


def parsed(folder: Path, lines: str):
    """Snakemake's options with a profile of these lines."""
    from snakemake.cli import parse_args

    (folder / "config.yaml").write_text(lines)
    return parse_args(["--profile", str(folder), "--dry-run"])[1]


SITES = re.findall(r"`((?:default|set)-resources: \{.*\})`", (ROOT / "docs/sites.md").read_text())


@pytest.mark.parametrize("line", SITES)
def test_lines_for_sites_are_taken_by_snakemake(line, tmp_path):
    assert parsed(tmp_path, line)


def test_no_cpus_are_asked_for_where_the_site_binds_them_to_gpus(tmp_path):
    from snakemake_executor_plugin_slurm_jobstep import get_cpu_setting

    (resource,) = [
        value
        for line in SITES
        for rule in parsed(tmp_path, line).set_resources.values()
        for name, value in rule.items()
        if name == "cpus_per_gpu"
    ]

    class Resources(dict):
        __getattr__ = dict.__getitem__

    class Job:
        threads, resources = 4, Resources(gpu=1, cpus_per_gpu=eval(resource.raw))

    assert get_cpu_setting(Job, True) == ""


def test_snakemake_ends_soon_after_its_last_job():
    """Its rate limiter keeps it until the last timespan is over."""
    from snakemake.settings.types import MaxJobsPerTimespan

    limit = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["max-jobs-per-timespan"]
    assert MaxJobsPerTimespan.parse_choice(limit).timespan <= 10


def test_jobs_of_a_killed_snakemake_are_found_also_through_a_link(tmp_path):
    """The command that docs/cluster.md has for it; Slurm names the folder without links."""
    command = re.search(r"^squeue .*scancel$", (ROOT / "docs/cluster.md").read_text(), re.M)[0]
    project, link = tmp_path / "my project", tmp_path / "link"
    project.mkdir()
    link.symlink_to(project)
    for name, text in {"squeue": f"printf '7|{project}\\n8|/elsewhere\\n'", "scancel": 'echo "$@" > cancelled'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    typed = f'cd "{link}"; PATH="{tmp_path}:$PATH"; {command}'
    subprocess.run(["bash", "-c", typed], check=True)
    assert (project / "cancelled").read_text() == "7\n"
