"""The configuration, checked and completed before any job starts.

Nothing here imports torch or asks the network: a login node and a dry run go through this file.
"""

import json
import os
from functools import cache
from pathlib import Path

import yaml

from scripts.core import registry
from scripts.core.planning import contracts
from scripts.core.planning.checking import ConfigError, check_object, check_value
from scripts.core.planning.given import PARTS

SCHEMA = Path(__file__).resolve().parents[3] / "workflow" / "schemas" / "config.schema.yaml"
NAME = {"type": "string", "maxLength": 100, "pattern": "^[A-Za-z0-9][A-Za-z0-9.-]*(_[A-Za-z0-9.-]+)*$"}
ROOMS = {"schemes": "quantizers", "metrics": "metrics"}


@cache
def schema() -> dict:
    """The parsed schema file."""
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def definition(name: str) -> dict:
    """One of the schema's definitions, e.g. 'unlearning'."""
    return schema()["$defs"][name]


def section(value, name: str, key: str) -> dict:
    """Check and complete a section against a definition of the schema."""
    known = definition(name)
    return check_object(value, known["properties"], key, known.get("required", ()))


def resolve(config: dict) -> dict:
    """Return the completed configuration; ConfigError (one line) for the first thing that is wrong.

    `config` is the parsed YAML. The combinations of the blocks of a sweep are checked in scripts.core.planning.combinations.
    """
    top = schema()["properties"]
    plain = {name: {k: v for k, v in part.items() if k not in ("additionalProperties", "$ref")} for name, part in top.items()}
    config = check_object(without_dropped(config), plain, "", schema()["required"])
    config["corpora"] = {name: corpus(entry, name) for name, entry in config["corpora"].items()}
    for part, room in ROOMS.items():
        config[part] = {name: plugin(entry, name, part, room) for name, entry in config[part].items()}
    config["unlearning"] = lean(section(config["unlearning"], "unlearning", "unlearning"))
    for part in ("evaluation", "mechanism", "resources"):
        config[part] = check_object(config[part], top[part]["properties"], part)
    for figure in config["figures"] or registry.names("figures"):
        contracts.require("figures", figure, "figures")
    check_duplicates(config["schemes"])
    check_full(config["schemes"])
    config["results"] = os.path.normpath(config["results"])  # ./results and results/ are one folder, to Snakemake's records too
    return config


def without_dropped(config) -> dict:
    """The configuration without the corpora, schemes and metrics that are `false`: so a file drops what one below it names."""
    if not isinstance(config, dict):
        return config
    named = {part: config[part] for part in PARTS if isinstance(config.get(part), dict)}
    return config | {part: {name: entry for name, entry in found.items() if entry is not False} for part, found in named.items()}


def lean(training: dict) -> dict:
    """Training settings without the `sparse` and `only_with` keys that are at their default: they stand in no spec then."""
    known = definition("unlearning")["properties"]
    optional = {name for name, schema in known.items() if "sparse" in schema or "only_with" in schema}
    return {name: value for name, value in training.items() if name not in optional or value != known[name]["default"]}


def plugin(entry, name: str, part: str, room: str) -> dict:
    """A scheme or metric: {'kind': …, parameters completed}; the kind defaults to the entry's own name."""
    key = f"{part}.{name}"
    check_value(name, NAME, key)
    entry = {} if entry is None else entry
    if not isinstance(entry, dict):
        raise ConfigError(f"{key}: {entry!r} is not allowed; allowed: a mapping such as {{kind: {registry.names(room)[0]}}}")
    kind = contracts.require(room, entry.get("kind", name), f"{key}.kind")
    rest = {k: v for k, v in entry.items() if k != "kind"}
    return {"kind": kind, **check_object(rest, registry.parameters(room, kind), key)}


def check_duplicates(schemes: dict) -> None:
    """ConfigError where two names stand for the same scheme, which would be computed twice."""
    seen = {}
    for name, scheme in schemes.items():
        other = seen.setdefault(repr(sorted(scheme.items())), name)
        if other != name:
            raise ConfigError(f"schemes.{name}: the same scheme as schemes.{other} ({scheme}); allowed: one name per scheme")


def check_full(schemes: dict) -> None:
    """Tables compare every scheme with the one named full: no other name may be full precision, and no other scheme have it."""
    for name, scheme in schemes.items():
        if (name == "full") != (scheme["kind"] == "full"):
            raise ConfigError(f"schemes.{name}: {scheme['kind']!r} is not allowed; allowed: full precision as full: {{kind: full}}")


def corpus(entry, name: str) -> dict:
    """A corpus with its model, completed; the plugin's own check looks at files, offline."""
    key = f"corpora.{name}"
    check_value(name, NAME, key)
    shared = definition("corpus")["properties"]
    if not isinstance(entry, dict) or "kind" not in entry:
        raise ConfigError(f"{key}: {entry!r} is not allowed; allowed: a mapping with kind, model and the kind's parameters")
    kind = contracts.require("corpora", entry["kind"], f"{key}.kind")
    filled = check_object(entry, shared | registry.parameters("corpora", kind), key, definition("corpus")["required"])
    filled["model"] = model(filled["model"], f"{key}.model", filled["max_length"])
    return filled


def model(entry: dict, key: str, max_length: int) -> dict:
    """The model of a corpus, completed according to its kind."""
    kinds = ("scratch", "pretrained", "finetune")
    if entry["kind"] not in kinds:
        raise ConfigError(f"{key}.kind: unknown name {entry['kind']!r}; {registry.nearest(entry['kind'], kinds)}")
    filled = section(entry, entry["kind"], key)
    for part in ("pretrain", "finetune", "reinforce"):
        if part in filled:
            filled[part] = section(filled[part], "recipe", f"{key}.{part}")
    if entry["kind"] == "scratch":
        shape(filled, key, max_length)
    return filled


def shape(entry: dict, key: str, max_length: int) -> None:
    """A scratch model's sizes must fit each other; null sizes are filled in."""
    hidden, heads = entry["hidden"], entry["heads"]
    if hidden % heads or (hidden // heads) % 2:
        raise ConfigError(f"{key}.heads: {heads} does not fit hidden {hidden}; allowed: a divisor that leaves an even head size")
    entry["kv_heads"] = entry["kv_heads"] or heads
    if heads % entry["kv_heads"]:
        raise ConfigError(f"{key}.kv_heads: {entry['kv_heads']} does not divide heads {heads}; allowed: a divisor of heads")
    entry["intermediate"] = entry["intermediate"] or max(64, int(2.75 * hidden) // 64 * 64)
    entry["initializer_range"] = entry["initializer_range"] or round(hidden**-0.5, 6)
    if max_length > entry["positions"]:
        raise ConfigError(f"{key}.positions: {entry['positions']} is below max_length {max_length}; allowed: at least max_length")


def check_plugins(config: dict) -> None:
    """What schemes and metrics can know before any job: groups that do not divide a layer, a missing folder, …; ConfigError."""
    shapes = [found for found in (known_shape(entry["model"]) for entry in config["corpora"].values()) if found]
    for part, room in ROOMS.items():
        for name, entry in config[part].items():
            for model_entry in shapes or [None]:
                ask(room, entry["kind"], f"{part}.{name}", entry, model_entry)
    for name, entry in config["schemes"].items():
        check_hardware(entry["kind"], config["resources"]["gpus"], f"schemes.{name}.kind")


def check_hardware(kind: str, gpus: int, key: str) -> None:
    """ConfigError where a kind of scheme needs a GPU and jobs of this sweep get none."""
    hardware = registry.constants("quantizers", kind)["HARDWARE"]
    if "cpu" not in hardware and gpus < 1:
        raise ConfigError(
            f"{key}: {kind} needs {' or '.join(hardware)} and jobs get no GPU here (resources.gpus: {gpus}); "
            "allowed: a machine with one, or another scheme"
        )


def check_results(results: str) -> None:
    """ConfigError where the folder of the results can't be made; one that is there may be read-only, to be looked at."""
    path, rule = Path(results).absolute(), "a folder, or the name of one that can be made"
    try:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"results: {results!r} is no folder; allowed: {rule}")
    except OSError as error:
        raise ConfigError(f"results: {results!r} can't be a folder ({error.strerror}); allowed: {rule}") from None
    above = next(parent for parent in path.parents if parent.exists())
    if not path.exists() and not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise ConfigError(f"results: {results!r} can't be made in {str(above)!r}; allowed: {rule}")


def known_shape(entry: dict) -> dict | None:
    """Sizes of a corpus's model: its own entry, or config.json of a local folder; None for a model that is on the hub."""
    if entry["kind"] == "scratch":
        return entry
    try:
        text = (Path(entry.get("base") or entry["target"]) / "config.json").read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, ValueError):
        return None


def ask(room: str, kind: str, key: str, *arguments) -> None:
    """Let a plugin check its settings, if it has a `check`; its ValueError gets the configuration's key in front."""
    if "check" not in registry.constants(room, kind)["__functions__"]:
        return  # nor is it imported
    try:
        registry.load(room, kind).check(*arguments)
    except ValueError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(key) else f"{key}.{message}") from error
