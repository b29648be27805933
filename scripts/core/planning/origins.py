"""What a sweep takes from elsewhere, looked at before any job: text, published models, tokenizers."""

from scripts.core import hub
from scripts.core.planning import config as configuration
from scripts.core.planning.checking import ConfigError


def check(plan) -> None:
    """ConfigError for a corpus or a model that can't be had, as far as that shows without a network.

    plan: scripts.core.planning.plan.Plan. What lies below its results folder already is not looked for again: the sources may
    have gone since, or be on another machine.
    """
    for run in plan.runs.values():
        if run.stage in ("corpus", "target", "retrain") and not run.built(plan.config["results"]):
            if run.stage == "corpus":
                check_text(run)
            else:
                check_model(run)


def check_text(run) -> None:
    """The corpus plugin's own check: files of a local corpus, the form of a hub's name, …"""
    configuration.ask("corpora", run.spec["corpus"]["kind"], f"corpora.{run.corpus}", run.spec["corpus"])


def check_model(run) -> None:
    """Where the run's model and tokenizer come from, unless they are trained here from scratch."""
    entry, key = run.spec["model"], f"corpora.{run.corpus}.model"
    part, tokenizer = {"pretrained": run.stage, "finetune": "base"}.get(entry["kind"]), entry.get("tokenizer")
    try:
        if part:
            hub.check(entry[part], f"{key}.{part}", tokenizer=not tokenizer)
        if tokenizer:
            hub.check(tokenizer, f"{key}.tokenizer", weights=False)
    except ValueError as error:
        raise ConfigError(str(error)) from error
