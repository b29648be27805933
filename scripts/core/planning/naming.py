"""How a run's settings stand in its path: lr1e-5_bf16_ep5_a1, and what differs from the defaults."""

from scripts.core import registry
from scripts.core.planning.config import definition

NAMED = ("lr", "weights", "epochs", "max_steps")  # always part of a path; other keys only where they differ from the default
SHORT = {"gradient_checkpointing": "recompute", "compile": "compiled"}


def setting(combination: dict) -> str:
    """The path segment that tells a run's settings: lr, weights, length, α, then whatever differs from the schema's defaults."""
    training, parts = combination["training"], []
    if "lr" in training:
        length = f"ep{training['epochs']}" if training["max_steps"] is None else f"st{training['max_steps']}"
        parts = [f"lr{training['lr']}", training["weights"], length]
    own = {**combination["method"], **combination["regularizer"]}
    if "alpha" in own:
        parts.append(f"a{number(own['alpha'])}")
    for room, part in (("methods", "method"), ("regularizers", "regularizer")):
        for name, schema in sorted(registry.parameters(room, combination[part]["name"]).items()):
            if name != "alpha" and combination[part][name] != schema.get("default"):
                parts.append(f"{name}{number(combination[part][name])}")
    for name, schema in definition("unlearning")["properties"].items():
        if name in NAMED or name not in training or "sparse" in schema or "only_with" in schema:
            continue
        default = schema.get("default")
        if name == "moments":
            default = "fp32" if training["weights"] == "fp32" else "bf16"
        if training[name] != default:
            parts.append(f"{name.replace('_', '-')}{number(training[name])}")
    return "_".join(parts + sparse_parts(training)) or "default"


def sparse_parts(training: dict) -> list[str]:
    """The parts of a path that come from keys which stand in a spec only where they are used."""
    parts = []
    if "saliency" in training:
        double = "-double" if training["sure_double"] else ""
        parts.append(f"sure-{training['saliency']}{number(training['percentile'])}{double}")
    if "parameters" in training:
        targets = "" if training["lora_targets"] == "all" else f"-{training['lora_targets']}"
        parts.append(f"lora{training['rank']}-{number(training['lora_alpha'])}{targets}")
    if "reference" in training:
        parts.append(f"ref-{training['reference']}{training.get('reference_k', '')}")
    parts += [short for name, short in SHORT.items() if training.get(name) is True]
    parts += [training[name].replace("_", "-") for name in ("attention", "optimizer") if name in training]
    if "checkpoint_at" in training:
        parts.append(segment(points({"training": training})))
    return parts


def number(value) -> str:
    """A value as it stands in a path."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def points(spec: dict) -> tuple[str, ...]:
    """Names of the checkpoints along a run's training, in its own unit: ("step100", …) or ("epoch1", …)."""
    training = spec.get("training", {})
    unit = "epoch" if training.get("max_steps") is None else "step"
    return tuple(f"{unit}{place}" for place in training.get("checkpoint_at", ()))


def segment(names: tuple[str, ...]) -> str:
    """How checkpoints along a training stand in a path: at100-200, or at-ep1-2 in epochs."""
    unit = "-ep" if names[0].startswith("epoch") else ""
    return f"at{unit}" + "-".join(name.removeprefix("step").removeprefix("epoch") for name in names)
