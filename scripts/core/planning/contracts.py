"""What the file of a plugin has to hold (docs/architecture.md, Contracts), looked at without importing it.

Looked at when a configuration names the plugin: what is missing is one line then, before any job, and not a traceback in each of
them. What a function does shows when it runs.
"""

import ast
from functools import cache

from scripts.core import isolation, registry
from scripts.core.analysis import columns
from scripts.core.planning.checking import ConfigError, Validator, check_value

NEEDS = ("sequence_logprob", "retain", "distribution", "logits", "model")  # what a loss may ask for besides the forget batch
TEXTS = {"type": "array", "items": {"type": "string"}}
LITERALS = {  # of each room: schema of what stands in capitals
    "methods": {
        "KIND": {"enum": ["training", "arithmetic"]},
        "NEEDS": {"type": "array", "items": {"enum": [*NEEDS, "reinforced"]}},
    },
    "regularizers": {"KIND": {"enum": ["training"]}, "NEEDS": {"type": "array", "items": {"enum": list(NEEDS)}}},
    "quantizers": {
        "ENVIRONMENT": {"enum": [isolation.MAIN, *isolation.names()]},  # the files of pins in envs
        "ARTIFACT": {"type": "boolean"},
        "HARDWARE": {"type": "array", "items": {"enum": ["cpu", "cuda"]}, "minItems": 1},
        "SOURCE": {"type": "string"},
    },
    "metrics": {"VERSION": {"type": "integer"}},
    "corpora": {},
    "figures": {"TABLES": {"type": "array", "items": {"enum": list(columns.TABLES)}, "minItems": 1}},
}
MAY_HAVE = {  # functions, and how many arguments they are given
    "quantizers": {"check": 2, "held": 2, "stored": 2},
    "metrics": {"check": 2, "reads": 1},
    "corpora": {"files": 1},
}
OPTIONAL = {
    "methods": {"TRAINING": TEXTS, "PARTS": {"type": "integer"}, "SEVERAL_GPUS": {"type": "boolean"}},
    "quantizers": {"SERVED": {"type": "boolean"}},
    "metrics": {"RECOVERED": {"type": "boolean"}, "ENGINE": {"enum": ["transformers", "vllm"]}},
}


def require(room: str, name: str, key: str) -> str:
    """Return `name` if the room has it, as registry.require does, and its file holds what it has to.

    For what looks at a configuration: the environments of quantizers, in which jobs call registry.require, have no jsonschema.
    """
    check(room, registry.require(room, name, key))
    return name


@cache
def check(room: str, name: str) -> None:
    """ConfigError (one line that names the file) where a plugin's file lacks something, or holds it in another form."""
    key, found = f"scripts/{room}/{name}.py", registry.constants(room, name)
    wanted = LITERALS[room] if room == "figures" else {"PARAMETERS": {"type": "object"}} | LITERALS[room]
    for literal, schema in (wanted | OPTIONAL.get(room, {})).items():
        if literal in found["__opaque__"]:
            raise ConfigError(f"{key}: {literal} is computed; allowed: a literal, since it is read without running the file")
        if literal in found:
            value = found[literal]
            check_value(list(value) if isinstance(value, tuple) else value, schema, f"{key}: {literal}")
        elif literal in wanted:
            raise ConfigError(f"{key}: {literal} is missing; allowed: as docs/architecture.md has it")
    for parameter, schema in found.get("PARAMETERS", {}).items():
        check_parameter(room, parameter, schema, f"{key}: PARAMETERS.{parameter}", found)
    for function, (count, names) in functions(room, found).items():
        check_function(found["__functions__"], function, count, names, key)


def check_parameter(room: str, name: str, schema, key: str, found: dict) -> None:
    """ConfigError for a parameter that is not described, or has the name of a setting that is there for every method."""
    if not isinstance(schema, dict) or not (schema.keys() >= {"default", "description"} and schema.keys() & {"type", "enum"}):
        raise ConfigError(f"{key}: {schema!r} is not allowed; allowed: a mapping with type, default and description")
    try:
        Validator.check_schema(schema)
    except Exception as error:
        raise ConfigError(f"{key}: {schema!r} is no JSON schema ({str(error).splitlines()[0]}); allowed: one") from error
    check_value(schema["default"], schema, f"{key}.default")
    if room not in ("methods", "regularizers"):
        return
    from scripts.core.planning.blocks import AXES
    from scripts.core.planning.config import definition

    taken = {*AXES, *definition("unlearning")["properties"], "name"}
    taken |= {"alpha"} if room == "methods" and found["KIND"] == "training" else set()  # the regularizer's, applied by the trainer
    if name in taken:
        raise ConfigError(f"{key}: is the name of a key that a block of the sweep has already; allowed: another name")


def functions(room: str, found: dict) -> dict[str, tuple]:
    """{function: (arguments given by position, those given by name)} that a plugin must have, and of MAY_HAVE what it has."""
    parameters = list(found.get("PARAMETERS", {}))
    if room == "methods" and found["KIND"] == "arithmetic":
        return {"combine": (3, parameters + list(found.get("TRAINING", ())))}
    if room in ("methods", "regularizers"):
        loss = (3, [name for name in parameters if room == "methods" or name != "alpha"])
        return {"loss": loss, "keep": loss} if room == "methods" and "retain" in found["NEEDS"] else {"loss": loss}
    optional = {name: (count, []) for name, count in MAY_HAVE.get(room, {}).items() if name in found["__functions__"]}
    if room == "quantizers":
        own = {"load": (3, ["artifact"] if found["ARTIFACT"] else []), "describe": (2, [])} | optional
        return own | {"quantize": (5, [])} if found["ARTIFACT"] else own
    return {
        "metrics": {"evaluate": (3, []), "rescore": (1, []), **optional},
        "corpora": {"check": (1, []), "build": (2, []), **optional},
        "figures": {"draw": (1, [])},
    }[room]


def check_function(known: dict, name: str, count: int, names: list[str], key: str) -> None:
    """ConfigError for a function that is missing, or can't be called as it will be. One that was imported is taken as it is."""
    if name not in known:
        raise ConfigError(f"{key}: has no function {name}; allowed: as docs/architecture.md has it")
    if not isinstance(known[name], ast.FunctionDef):
        return
    given = known[name].args
    by_place = [one.arg for one in (*given.posonlyargs, *given.args)]
    by_name = {one.arg for one in (*given.args[max(0, count - len(given.posonlyargs)) :], *given.kwonlyargs)}
    lacking = [one for one in names if one not in by_name and not given.kwarg]
    if lacking:
        raise ConfigError(f"{key}: {name}() takes no {lacking[0]!r}; allowed: an argument for each parameter")
    needed = by_place[: len(by_place) - len(given.defaults)]
    needed += [one.arg for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    unset = [one for one in needed if one not in by_place[:count] and one not in names]
    if unset or (len(by_place) < count and not given.vararg):
        has = f"also needs {unset[0]!r}" if unset else f"takes {len(by_place)} arguments"
        raise ConfigError(f"{key}: {name}() {has}; allowed: {count} arguments by position" + (" and parameters" if names else ""))
