"""What metrics and a base model read of a corpus, compared with what it takes; jobs would find out after hours.

Two functions that plugins may have name these files, below a corpus's data (knowmem/forget_qa, say): a metric's
`reads(settings)` and a corpus's `files(settings)`. Where a plugin has no such function, nothing is compared.
"""

from scripts.core import registry
from scripts.core.planning.checking import ConfigError

PRETRAIN = "raw/pretrain"


def check(plan) -> None:
    """ConfigError for the first metric or base model of a sweep (plan.Plan) that reads a file which its corpus does not take."""
    config = plan.config
    for name in {run.corpus: None for run in plan.runs.values()}:
        entry = config["corpora"][name]
        taken = ask("corpora", entry["kind"], "files", {"name": name} | {k: v for k, v in entry.items() if k != "model"})
        if taken is None:
            continue
        if entry["model"]["kind"] == "scratch" and PRETRAIN not in taken:
            raise ConfigError(
                f"corpora.{name}.model.kind: 'scratch' is pre-trained on {PRETRAIN}.json, which corpora.{name} does not take; "
                f"allowed: finetune, pretrained, or parameters of the kind {entry['kind']} with which it does"
            )
        for metric, settings in config["metrics"].items():
            read = ask("metrics", settings["kind"], "reads", settings) or []
            lacking = [file for file in read if file not in taken]
            if lacking:
                raise ConfigError(
                    f"metrics.{metric}: reads {lacking[0]}.json, which corpora.{name} does not take; allowed: metrics of what it "
                    f"takes ({', '.join(sorted(taken))})"
                )


def ask(room: str, kind: str, function: str, settings: dict) -> list[str] | None:
    """What a plugin's function says of its settings; None where it has no such function (nor is it imported then)."""
    if function not in registry.constants(room, kind)["__functions__"]:
        return None
    return list(getattr(registry.load(room, kind), function)(settings))
