"""Models that a sweep takes from elsewhere, looked at before any job."""

from pathlib import Path

from scripts.core import hub
from scripts.core.planning.checking import ConfigError


def check(plan, results) -> None:
    """ConfigError for a target, retrain or base model or a tokenizer that can't be had, as far as that shows without a network.

    plan: scripts.core.planning.plan.Plan. Models that lie in `results` are not looked for again: they may have gone since.
    """
    for path, run in plan.runs.items():
        if run.stage not in ("target", "retrain") or (Path(results) / path / "outcome.json").exists():
            continue
        model, key = run.spec["model"], f"corpora.{run.corpus}.model"
        part = {"pretrained": run.stage, "finetune": "base"}.get(model["kind"])
        try:
            if part:
                hub.check(model[part], f"{key}.{part}", tokenizer=not model.get("tokenizer"))
            if model.get("tokenizer"):
                hub.check(model["tokenizer"], f"{key}.tokenizer", weights=False)
        except ValueError as error:
            raise ConfigError(str(error)) from error
