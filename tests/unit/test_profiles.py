"""The profiles name options that the installed Snakemake and its Slurm plugin know, those in comments included."""

import dataclasses
import re
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
