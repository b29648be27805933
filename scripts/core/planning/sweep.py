"""A sweep and its files on disk: the plan of a configuration file, for the programs that people run beside Snakemake."""

import argparse
from pathlib import Path

from scripts.core.planning import calibration, data, given, grid, origins, placement
from scripts.core.planning import config as configuration
from scripts.core.planning.plan import Plan
from scripts.core.storage import read_json


def resolved(path) -> dict:
    """The configuration in a sweep.json, with the defaults of keys that it lacks: those that decide no run, and newer ones."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"--sweep: {str(path)!r} holds {str(content)[:80]!r}; allowed: a JSON object, as a sweep writes it")
    return configuration.resolve(content)


def checked(content: dict) -> Plan:
    """The plan of a configuration as YAML gives it, after all that can be checked before a job; ValueError (one line) if wrong."""
    plan = grid.plan(configuration.resolve(content))
    configuration.check_results(plan.config["results"])
    configuration.check_plugins(plan.config)
    origins.check(plan)
    data.check(plan)
    placement.check(plan)
    calibration.check_built(plan)
    return plan


def parser(program: str, description: str, also: str = "") -> argparse.ArgumentParser:
    """The arguments of a program that reads a sweep; also: what else its --config may be, for the help."""
    arguments = argparse.ArgumentParser(
        prog=f"python -m scripts.{program}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = f"configuration of the sweep, later files laid over earlier ones{also} (default: config.yaml)"
    arguments.add_argument("--config", nargs="+", default=["config.yaml"], metavar="FILE", help=what)
    return arguments


def laid(*paths) -> dict:
    """Content of configuration files (YAML) or of a sweep's own sweep.json; ValueError with one line for one that can't be read.

    Of several files, later ones are laid over earlier ones, as `snakemake --configfile` does.
    """
    from snakemake.utils import update_config

    content, contents = {}, [parsed(path) for path in paths]
    given.check_dropped(contents)
    for one in contents:
        update_config(content, one)
    return content


def read(*paths) -> Plan:
    """The plan of configuration files, to look at what is there: nothing is asked of this machine, which may not be the sweep's."""
    return grid.plan(configuration.resolve(laid(*paths)))


def parsed(path) -> dict:
    """Content of one configuration file; a sweep.json, which names no folder, is about the folder that it lies in."""
    try:
        content = given.content(path)
    except ValueError as error:
        raise ValueError(f"--config: {error}") from None
    given.check_repeated(path)
    return {"results": str(Path(path).parent)} | content if Path(path).name == "sweep.json" else content


def seconds(benchmark: Path) -> float | None:
    """Wall-clock seconds in a benchmark file of Snakemake; None where it is missing or was cut off."""
    try:
        header, values = (line.split("\t") for line in benchmark.read_text(encoding="utf-8").splitlines()[:2])
        return float(dict(zip(header, values, strict=True))["s"])
    except (OSError, ValueError, KeyError):
        return None
