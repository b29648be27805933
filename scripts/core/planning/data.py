"""What metrics and a base model read of a corpus, compared with what it takes; jobs would find out after hours.

Told by functions that plugins may have, both of which name files below a corpus's data, such as knowmem/forget_qa: a metric's
`reads(settings)` and a corpus's `files(settings)`. Where one of the two tells nothing, nothing is compared.
"""

from scripts.core import registry
from scripts.core.planning.checking import ConfigError

PRETRAIN = "raw/pretrain"


def check(plan) -> None:
    """ConfigError for the first metric or base model of a sweep (plan.Plan) that reads a file which its corpus does not take."""
    config = plan.config
    for name in {run.corpus: None for run in plan.runs.values()}:
        entry = config["corpora"][name]
        taken = told("corpora", entry["kind"], "files", {"name": name} | {k: v for k, v in entry.items() if k != "model"})
        if entry["model"]["kind"] == "scratch" and taken is not None and PRETRAIN not in taken:
            raise ConfigError(
                f"corpora.{name}.model.kind: 'scratch' is pre-trained on {PRETRAIN}.json, which corpora.{name} does not take; "
                f"allowed: finetune, pretrained, or parameters of the kind {entry['kind']} with which it does"
            )
        for metric, settings in config["metrics"].items() if taken is not None else ():
            for file in told("metrics", settings["kind"], "reads", settings) or ():
                if file not in taken:
                    raise ConfigError(
                        f"metrics.{metric}: reads {file}.json, which corpora.{name} does not take; allowed: metrics of what it "
                        f"takes ({', '.join(sorted(taken))})"
                    )


def told(room: str, kind: str, function: str, settings: dict) -> list[str] | None:
    """What a plugin's function says of its settings; None where it has no such function (nor is it imported then)."""
    if function not in registry.constants(room, kind)["__functions__"]:
        return None
    return list(getattr(registry.load(room, kind), function)(settings))
