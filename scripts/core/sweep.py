"""The plan of a sweep from a configuration file on disk, for the programs that people run beside Snakemake."""

from pathlib import Path

import yaml

from scripts.core import config as configuration
from scripts.core import grid, memory
from scripts.core.plan import Plan
from scripts.core.storage import read_json


def resolved(path) -> dict:
    """The configuration in a sweep.json, with the defaults of keys that it lacks: those that decide no cell, and newer ones."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"--sweep: {str(path)!r} holds {str(content)[:80]!r}; allowed: a JSON object, as a sweep writes it")
    return configuration.resolve(content)


def read(path) -> Plan:
    """The plan of a configuration file (YAML) or of a sweep's own sweep.json; ValueError with one line when it is wrong."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"--config: {str(path)!r} does not exist; allowed: a configuration file") from None
    except yaml.YAMLError as error:
        raise ValueError(
            f"--config: {str(path)!r} is not YAML ({str(error).splitlines()[0]}); allowed: a configuration file"
        ) from error
    plan = grid.plan(configuration.resolve(content or {}))
    memory.check(plan)
    return plan
