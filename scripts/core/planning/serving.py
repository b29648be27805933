"""Which engine evaluates, and what it can serve; known before any job, without importing torch or vLLM.

A scheme is served by vLLM where its plugin says `SERVED = True`: its weights, dequantized, are those of an ordinary model. A metric
that asks for more than texts and log-probabilities says `ENGINE = "transformers"`.
"""

from scripts.core import registry
from scripts.core.isolation import MAIN
from scripts.core.planning.checking import ConfigError

KEY = "evaluation.engine"
HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # sizes of attention heads that vLLM 0.32 takes on a CPU


def environment(config: dict) -> str:
    """Name of the environment that evaluation jobs run in: vLLM has one build for GPUs and one for CPUs."""
    if config["evaluation"]["engine"] != "vllm":
        return MAIN
    return "vllm" if config["resources"]["gpus"] else "vllm_cpu"


def servable() -> list[str]:
    """Kinds of schemes that vLLM serves."""
    room = registry.names("quantizers")
    return [name for name in room if registry.constants("quantizers", name).get("SERVED")]


def check(config: dict, runs=()) -> None:
    """ConfigError for the first thing in a configuration, or a run of its sweep, that evaluation.engine can't do."""
    if config["evaluation"]["engine"] != "vllm":
        return
    for name, scheme in config["schemes"].items():
        if scheme["kind"] not in servable():
            raise ConfigError(
                f"{KEY}: 'vllm' can't serve schemes.{name} ({scheme['kind']}); allowed: transformers, or schemes of the kinds "
                f"{', '.join(servable())}"
            )
    for name, metric in config["metrics"].items():
        if registry.constants("metrics", metric["kind"]).get("ENGINE", "vllm") != "vllm":
            raise ConfigError(
                f"{KEY}: 'vllm' can't be asked by metrics.{name} ({metric['kind']}), which takes the model itself; "
                "allowed: transformers, or a configuration without this metric"
            )
    if not config["resources"]["gpus"]:
        for name, entry in config["corpora"].items():
            check_heads(entry["model"], f"corpora.{name}.model.heads")
    for run in runs:
        method = run.spec.get("method", {}).get("name")
        if method and registry.constants("methods", method).get("PARTS", 1) > 1:
            raise ConfigError(
                f"{KEY}: 'vllm' serves one model, and that of {method} is made of two; allowed: transformers, or a sweep without it"
            )


def check_heads(model: dict, key: str) -> None:
    """ConfigError where a model that is made here has heads of a size that vLLM's attention on a CPU does not know."""
    if model["kind"] != "scratch":
        return
    size = model["hidden"] // model["heads"]
    if size not in HEADS:
        raise ConfigError(
            f"{key}: {model['heads']} heads of {size} numbers each can't be served by {KEY} 'vllm' on a CPU; "
            f"allowed: transformers, or heads of {', '.join(map(str, HEADS))}"
        )
