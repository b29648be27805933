"""The configuration as it was given, before it is checked: YAML files, and what `--config` lays over them."""

from pathlib import Path

import yaml

from scripts.core.planning.checking import ConfigError, nearest
from scripts.core.storage import read_json

PARTS = ("corpora", "schemes", "metrics")  # whose entries a later file drops by `false`
TEXTS = ("lr", "zero", "gpu_model")  # keys whose values are texts even where they look like numbers


def words(value):
    """A value of `--config` as it would be in a YAML file: Snakemake leaves `true`, and everything inside brackets, as text."""
    if isinstance(value, dict):
        return {key: part if key in TEXTS else words(part) for key, part in value.items()}
    if isinstance(value, list):
        return [words(part) for part in value]
    if not isinstance(value, str):
        return value
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return found if isinstance(found, bool | int | float | None) else value


def overlaid(config: dict, given) -> dict:
    """`config` with the values of `--config` (`given`, which Snakemake has laid over it as texts) as a file would hold them."""
    config = dict(config)
    for key, value in given.items():
        both = isinstance(value, dict) and isinstance(config.get(key), dict)
        config[key] = overlaid(config[key], value) if both else words({key: value})[key]
    return config


def left_out(config: dict) -> list[str]:
    """Metrics and schemes of the results that the resolved `config` leaves out, where that would train models again.

    Snakemake looks through an evaluation that is asked for less, and the weights that this needs are gone: all unlearned ones with
    `keep_checkpoints: until_evaluated`, those of checkpoints along a training with `last`.
    """
    along = any(block.get("checkpoint_at") for block in (config["unlearning"], *config["sweep"]))
    if config["keep_checkpoints"] == "all" or (config["keep_checkpoints"] == "last" and not along):
        return []
    try:
        before = read_json(Path(config["results"]) / "sweep.json")
        parts = {part: before[part].keys() - config[part].keys() for part in ("metrics", "schemes")}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    return sorted(f"{part}.{name}" for part, names in parts.items() for name in names)


def default(project) -> str:
    """The configuration if none is named: config.yaml of the working directory, else that of the project. ConfigError if wrong."""
    path = next((path for path in ("config.yaml", f"{project}/config.yaml") if Path(path).exists()), "config.yaml")
    content(path)
    return path


def content(path) -> dict:
    """What a configuration file holds; ConfigError where it can't be read, is not YAML or no mapping."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"can't be read ({error.strerror})"
        raise ConfigError(f"{str(path)!r} {reason}; allowed: a configuration file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        if mark := getattr(error, "problem_mark", None):
            reason = f"{error.problem} in line {mark.line + 1}"
        raise ConfigError(f"{str(path)!r} is not YAML ({reason}); allowed: a configuration file") from None
    if not isinstance(found, dict):
        what = "nothing" if found is None else repr(str(found)[:80])
        raise ConfigError(f"{str(path)!r} holds {what}; allowed: a mapping, as in config.yaml")
    return found


def check_repeated(path) -> None:
    """ConfigError for a key that stands twice in one mapping of a YAML file: YAML would take the last and say nothing."""
    seen, waiting = set(), [("", yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader))]
    while waiting:
        where, node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(f"{where}[{i}]", part) for i, part in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            waiting += entries(node, where, path)


def check_dropped(contents: list[dict]) -> None:
    """ConfigError for a corpus, scheme or metric that one of the contents laid over one another drops and none of them has."""
    for part in PARTS:
        laid = [content[part] for content in contents if isinstance(content.get(part), dict)]
        known = {name for found in laid for name, entry in found.items() if words(entry) is not False}
        for name in (name for found in laid for name, entry in found.items() if words(entry) is False and name not in known):
            raise ConfigError(f"{part}.{name}: false drops nothing; {nearest(name, known)}")


def entries(node, where: str, path) -> list[tuple]:
    """(key, node of its value) of each entry of a mapping; ConfigError for a repeated key."""
    found = {}
    for key, value in node.value:
        name = f"{where}.{key.value}".removeprefix(".")
        if name in found:
            first, again = found[name][0] + 1, key.start_mark.line + 1
            raise ConfigError(f"{name}: stands in line {first} of {path} and again in line {again}; allowed: once")
        found[name] = key.start_mark.line, value
    return [(name, value) for name, (_, value) in found.items()]
