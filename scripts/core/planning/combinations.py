"""One combination of a block's values: checked, and completed with the defaults that play a part in it."""

from scripts.core import registry
from scripts.core.planning import layers
from scripts.core.planning.checking import ConfigError, check_object, check_value
from scripts.core.planning.config import definition, lean

SEED = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}


def check_combination(chosen: dict, key: str, config: dict) -> dict:
    """One combination as {'corpus', 'seed', 'method': {…}, 'regularizer': {…}, 'training': {…}}, defaults filled in."""
    if not isinstance(chosen["corpus"], str) or chosen["corpus"] not in config["corpora"]:
        raise ConfigError(
            f"{key}.corpus: unknown name {chosen['corpus']!r}; {registry.nearest(chosen['corpus'], config['corpora'])}"
        )
    check_value(chosen["seed"], SEED, f"{key}.seed")
    parts = {}
    for part, room in (("method", "methods"), ("regularizer", "regularizers")):
        properties = registry.parameters(room, chosen[part])
        own = {k: chosen[k] for k in properties if k in chosen}
        parts[part] = {"name": chosen[part], **check_object(own, properties, key)}
    properties = definition("unlearning")["properties"]
    training = config["unlearning"] | {k: chosen[k] for k in properties if k in chosen}
    training = check_object(training, properties, key)
    if training["max_steps"] is not None:
        training["epochs"] = None  # the steps decide
    if training["moments"] == "auto":
        training["moments"] = "fp32" if training["weights"] == "fp32" else "bf16"
    training["checkpoint_at"] = check_points(training, key)
    keep = lean(training).keys() | {name for name, schema in properties.items() if "only_with" in schema}
    keep &= applicable(chosen, config)
    training = {name: value for name, value in training.items() if name in keep}
    check_targets(training, config["corpora"][chosen["corpus"]]["model"], key)
    seed = chosen["seed"] if trains(chosen["method"]) else 0  # arithmetic on checkpoints draws nothing: seeds are one run
    return {"corpus": chosen["corpus"], "seed": seed, **parts, "training": training}


def check_targets(training: dict, model: dict, key: str) -> None:
    """ConfigError for a LoRA target that no layer of the model has, as far as its layers are known before a job loads it."""
    wanted = training.get("lora_targets", "all")
    names = layers.linear_names(model) if wanted != "all" else None
    if names:
        layers.chosen(names, wanted, f"{key}.lora_targets")


def check_points(training: dict, key: str) -> list[int]:
    """`checkpoint_at` in order and without repetitions; ConfigError for one that does not lie before the end."""
    steps = training["max_steps"]
    length, unit = (training["epochs"], "epochs") if steps is None else (steps, "steps")
    at = sorted(set(training["checkpoint_at"]))
    if at and at[-1] >= length:
        raise ConfigError(
            f"{key}.checkpoint_at: {at[-1]} does not lie before the end of a run of {length} {unit}, which is always kept; "
            f"allowed: 1 to {length - 1}"
        )
    return at


def applicable(chosen: dict, config: dict) -> set[str]:
    """Keys of the training settings that play a part in a combination."""
    properties = definition("unlearning")["properties"]
    if not trains(chosen["method"]):
        return set(registry.constants("methods", chosen["method"]).get("TRAINING", ()))
    values = {k: schema.get("default") for k, schema in properties.items()} | config["unlearning"] | chosen

    def idle(schema):
        other = schema.get("only_with")
        return other is not None and values[other] == properties[other]["default"]

    idle_keys = {name for name, schema in properties.items() if idle(schema)}
    asked = needs({part: {"name": chosen[part]} for part in ("method", "regularizer")})
    if not asked & {"distribution", "logits", "model"}:
        idle_keys |= {"reference", "reference_k"}  # nothing of the target's distributions is kept
    elif values["reference"] != "topk":
        idle_keys.add("reference_k")
    return properties.keys() - idle_keys


def trains(method: str) -> bool:
    """Whether a method is a training, and not arithmetic on checkpoints."""
    return registry.constants("methods", method).get("KIND") != "arithmetic"


def needs(combination: dict) -> set[str]:
    """What the method and regularizer of a combination or a spec ask for besides the forget batch: the union of their NEEDS."""
    chosen = (("methods", combination["method"]), ("regularizers", combination["regularizer"]))
    return {need for room, part in chosen for need in registry.constants(room, part["name"])["NEEDS"]}


def reads_retain(combination: dict) -> bool:
    """Whether a combination's training reads retain text: for its regularizer, or for a term of the method's own."""
    return combination["regularizer"]["name"] != "none" or "retain" in needs(combination)
