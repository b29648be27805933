"""Names of a model's Linear layers as far as they are known before any job: without torch, without the network."""

import json
from pathlib import Path

from scripts.core.planning.checking import ConfigError

LLAMA = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
OTHERS = ("embed", "lm_head", "wte", "wpe")  # matrices that are no layers of the decoder: embeddings and the output head


def linear_names(model: dict) -> list[str] | None:
    """Full names of the decoder's Linear layers, from a model's entry in the configuration.

    Of a model that is trained from scratch they follow from its depth, of a local folder they are the matrices that its
    safetensors files name (perhaps more than Linear layers, never fewer). None for a model that is on the hub.
    """
    if model["kind"] == "scratch":
        return [f"model.layers.{layer}.{name}" for layer in range(model["layers"]) for name in LLAMA]
    names = [name for file in sorted(Path(model.get("base") or model["target"]).glob("*.safetensors")) for name in matrices(file)]
    return [name for name in names if not any(other in name for other in OTHERS)] or None


def matrices(file) -> list[str]:
    """Names, without ".weight", of the two-dimensional weights in a safetensors file's header; [] where it can't be read."""
    try:
        with open(file, "rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError):
        return []
    return [name.removesuffix(".weight") for name, shape in shapes.items() if name.endswith(".weight") and len(shape) == 2]


def chosen(names: list[str], wanted: str, key: str) -> list[str]:
    """Those of `names` that `wanted` asks for: all of them, or what ends in one of several endings, which are joined with +.

    ConfigError with the key of `wanted` for an ending that no name has.
    """
    if wanted == "all":
        return names
    found = []
    for ending in wanted.split("+"):
        own = [name for name in names if name == ending or name.endswith(f".{ending}")]
        if not own:
            known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))
            raise ConfigError(f"{key}: {ending!r} matches no Linear layer of the model; allowed: all, or {known}")
        found += own
    return found
