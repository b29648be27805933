"""Names of a model's Linear layers as far as they are known before any job: without torch, without the network."""

import json
from pathlib import Path

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


def unmatched(names: list[str], endings: str) -> str | None:
    """The first of `endings` (joined with +) that no name has; None when each has one, or for "all"."""
    wanted = [] if endings == "all" else endings.split("+")
    return next((end for end in wanted if not any(name == end or name.endswith(f".{end}") for name in names)), None)
