"""A block of the sweep as its combinations: the product of its lists, each checked."""

from itertools import product

from scripts.core import registry
from scripts.core.planning import contracts
from scripts.core.planning.checking import ConfigError
from scripts.core.planning.combinations import applicable, check_combination
from scripts.core.planning.config import definition
from scripts.core.planning.pruning import senseless

AXES = ("corpus", "method", "regularizer", "seed")


def expand(block: dict, key: str, config: dict, pruned: list) -> list[dict]:
    """The combinations of a block, checked; what makes no sense goes to `pruned`, a value that no combination uses is an error."""
    methods = as_list(block.get("method"), f"{key}.method")
    regularizers = as_list(block.get("regularizer", "none"), f"{key}.regularizer")
    own = own_parameters(block, methods, regularizers, key)
    values = axes(block, key) | {"regularizer": regularizers}
    values.setdefault("seed", [0])
    used, combinations = set(), []
    for picked in product(*values.values()):
        chosen = dict(zip(values, picked, strict=True))
        applies = {*AXES, *applicable(chosen, config)}
        applies |= own["methods"][chosen["method"]].keys() | own["regularizers"][chosen["regularizer"]].keys()
        used |= applies & chosen.keys()
        combination = check_combination({k: v for k, v in chosen.items() if k in applies}, key, config)
        reason = senseless(combination)
        if reason:
            pruned.append(f"{key}: {combination['method']['name']} with {combination['regularizer']['name']}: {reason}")
        else:
            combinations.append(combination)
    for name in values.keys() - used:
        where = f"method {', '.join(methods)} with regularizer {', '.join(regularizers)}"
        raise ConfigError(
            f"{key}.{name}: {block[name]!r} applies to no combination of the block ({where}); allowed: remove the key"
        )
    return combinations


def own_parameters(block: dict, methods: list, regularizers: list, key: str) -> dict[str, dict]:
    """{room: {plugin: its parameters}} of the plugins that a block names; ConfigError for a missing or an unknown key."""
    for axis in ("corpus", "method"):
        if axis not in block:
            raise ConfigError(f"{key}.{axis}: missing; allowed: a name or a list of names")
    named = {"methods": methods, "regularizers": regularizers}
    for room, plugins in named.items():
        for name in plugins:
            contracts.require(room, name, f"{key}.{room.removesuffix('s')}")
    own = {room: {name: registry.parameters(room, name) for name in plugins} for room, plugins in named.items()}
    extras = {k: v for room in own.values() for parameters in room.values() for k, v in parameters.items()}
    known = (*AXES, *definition("unlearning")["properties"], *extras)
    for name in block:
        if name not in known:
            raise unknown(name, block[name], key, known)
    return own


def unknown(name: str, value, key: str, known) -> ConfigError:
    """An unknown key of a block; tells apart a parameter of a plugin that the block does not name."""
    for room in ("methods", "regularizers"):
        for plugin in registry.names(room):
            if name in registry.parameters(room, plugin):
                return ConfigError(
                    f"{key}.{name}: {value!r} belongs to {plugin} in {room}, which this block lacks; allowed: remove the key"
                )
    return ConfigError(f"{key}.{name}: unknown key (value {value!r}); {registry.nearest(name, known)}")


def axes(block: dict, key: str) -> dict[str, list]:
    """The values of each key of a block. Of a key whose values are lists (checkpoint_at), a list is one value."""
    training = definition("unlearning")["properties"]
    whole = {name for name, entry in training.items() if entry.get("type") == "array" and not nested(block.get(name))}
    return {name: [block[name]] if name in whole else as_list(block[name], f"{key}.{name}") for name in block}


def nested(value) -> bool:
    """Whether a value is a list of lists: an axis of a key whose values are lists."""
    return isinstance(value, list) and any(isinstance(part, list) for part in value)


def as_list(value, key: str) -> list:
    """A value or a list of values as a list without repetitions; an empty list is an error."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{key}: [] is not allowed; allowed: a value or a list of at least one")
    return [v for i, v in enumerate(values) if v not in values[:i]]
