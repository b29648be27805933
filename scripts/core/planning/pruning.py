"""What a sweep leaves out, and why: combinations that make no sense, and models that a scheme can't hold."""

from scripts.core import registry
from scripts.core.planning.combinations import needs, trains
from scripts.core.planning.plan import Run

# Why a combination makes no sense, and how to tell.
SENSELESS = [
    (
        "the method trains nothing, so it takes no regularizer",
        lambda combination: not trains(combination["method"]["name"]) and combination["regularizer"]["name"] != "none",
    ),
    (
        "SURE chooses among the model's own weights; LoRA trains others",
        lambda combination: combination["training"].get("saliency") and combination["training"].get("parameters") == "lora",
    ),
    (
        "the method reads the whole target model, which a table of its distributions does not hold",
        lambda combination: combination["training"].get("reference") in ("cached", "topk") and "model" in needs(combination),
    ),
    (
        "raw logits of the target can't be had from its most likely tokens",
        lambda combination: combination["training"].get("reference") == "topk" and "logits" in needs(combination),
    ),
    (
        "8-bit and paged optimisers write fp32 weights, and whole ones",
        lambda combination: (
            combination["training"].get("optimizer")
            and (combination["training"]["weights"] != "fp32" or str(combination["training"].get("saliency")).startswith("row"))
        ),
    ),
]


def senseless(combination: dict) -> str | None:
    """Why a combination makes no sense, or None."""
    return next((reason for reason, applies in SENSELESS if applies(combination)), None)


def misfit(run: Run, scheme: dict) -> str | None:
    """Why a run can't be held by a scheme, or None."""
    quantizer = registry.constants("quantizers", scheme["kind"])
    if run.stage == "unlearn":
        method = run.spec["method"]["name"]
        if quantizer.get("ARTIFACT") and registry.constants("methods", method).get("PARTS", 1) > 1:
            return f"{scheme['kind']} writes the files of one model, {method} is made of two"
    return None


def unasked(run: Run, scheme: dict, config: dict) -> str | None:
    """Why a run is not evaluated under a scheme that could hold it, or None."""
    wanted = config["evaluation"]["retrain"] == "all" or run.stage != "retrain" or scheme["kind"] == "full"
    return None if wanted else "evaluation.retrain is full"
