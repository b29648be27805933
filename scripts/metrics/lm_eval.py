"""Utility through lm-eval, on the model that is loaded: Gen (task mmlu), Tru (truthfulqa_mc2), Fac (triviaqa).

Prompts, few-shot examples and scores of an item are lm-eval's; `value` is the mean over items ×100, so that a group such as mmlu
counts each question alike. Tasks and data come from the hub, or from a local folder with lm-eval's YAML files, whose data_files are
then relative to that folder. lm-eval is imported when a task is evaluated, not before.
"""

import math
from contextlib import chdir
from pathlib import Path

from scripts.core import hub

PARAMETERS = {
    "task": {"type": "string", "minLength": 1, "default": "mmlu", "description": "a task or group of lm-eval"},
    "source": {"type": "string", "minLength": 1, "default": "hub", "description": "hub, or a folder with tasks (YAML) and data"},
    "limit": {
        "type": ["integer", "null"],
        "minimum": 1,
        "default": None,
        "description": "items of each task, its first; null: all",
    },
    "shots": {
        "type": ["integer", "null"],
        "minimum": 0,
        "default": None,
        "description": "in-context examples; null: as many as the task says",
    },
}
VERSION = 1
ENGINE = "transformers"  # lm-eval takes the model itself
SCORES = ("acc", "exact_match", "f1")  # the score of an item: the first that a task has
DATASETS = {"mmlu": "cais/mmlu", "truthfulqa_mc2": "truthfulqa/truthful_qa", "triviaqa": "mandarjoshi/trivia_qa"}


def check(settings: dict, model=None) -> None:
    """ValueError, before any job, for a local folder that lacks the task, or for the hub when it is switched off."""
    task, source = settings["task"], settings["source"]
    if source != "hub":
        if not Path(source).is_dir():
            raise ValueError(f"source: {source!r} is no folder; allowed: hub, or a folder with lm-eval's tasks")
        if not any(task in path.read_text(encoding="utf-8") for path in Path(source).rglob("*.yaml")):
            raise ValueError(f"task: {task!r} is in no YAML file of {source!r}; allowed: a task of that folder")
    elif (variable := offline()) and task in DATASETS and not hub.cached("datasets", DATASETS[task]):
        raise ValueError(
            f"source: 'hub' while {variable} is set, and {DATASETS[task]} is not in the cache; "
            "allowed: a local folder with the task, or a data set that was downloaded before"
        )


def offline() -> str | None:
    """The environment variable that keeps lm-eval's data sets from the hub; None where none does."""
    return hub.offline("HF_DATASETS_OFFLINE")


def guard(model, arguments, output) -> None:
    """Forward hook: a model whose logits are NaN or infinite has no score."""
    import torch

    from scripts.core.evaluation.generation import NotFinite

    if not torch.isfinite(output.logits[:, -1]).all():
        raise NotFinite("logits are not finite")


def halving(model, name: str):
    """A method of lm-eval's model, called anew with half the batch where a GPU has no room for a batch.

    Its requests go longest first, so that the first batches tell and little is done twice.
    """
    from scripts.core.evaluation import generation

    method = getattr(model, name)

    def call(*arguments, **options):
        found = []
        while not generation.has_room(lambda: found.append(method(*arguments, **options)), model.batch_size):
            model.batch_size_per_gpu //= 2
        return found[0]

    return call


def evaluate(engine, data, settings: dict) -> dict:
    """{"value": mean score of items ×100, "n", "mean", "score": its name, "samples": [{task, item, acc}]}; `data` is not read."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    task, source = settings["task"], settings["source"]
    local = source != "hub"
    length = engine.positions or 2048
    hook = engine.model.register_forward_hook(guard)
    try:
        model = HFLM(
            pretrained=engine.model,
            tokenizer=engine.tokenizer,
            batch_size=max(1, engine.batch_tokens // length),
            max_length=length,
            device=str(engine.model.device),
        )
        for name in ("_loglikelihood_tokens", "generate_until"):
            setattr(model, name, halving(model, name))
        with chdir(source if local else "."):
            manager = TaskManager(include_path="." if local else None, include_defaults=not local)
            if task not in manager.all_tasks:
                raise ValueError(f"lm_eval.task: {task!r} is unknown; allowed: a task of {source!r} (lm-eval {version()})")
            found = simple_evaluate(
                model,
                tasks=[task],
                task_manager=manager,
                num_fewshot=settings["shots"],
                limit=settings["limit"],
                bootstrap_iters=0,
            )
    except OSError as error:  # no network, or no such file
        where = f"{offline()} is set" if offline() and not local else str(error).splitlines()[0]
        raise ValueError(
            f"lm_eval.source: data of {task!r} can't be read from {source!r}: {where}; allowed: data at hand"
        ) from error
    finally:
        hook.remove()
    samples, name = collect(found["samples"], task)
    return {"score": name, "lm_eval": version(), "samples": samples, **rescore({"samples": samples})}


def collect(found: dict, task: str) -> tuple[list[dict], str]:
    """({"task", "item", "acc"} of each item, the score's name) from lm-eval's samples; one filter of each item counts."""
    samples, used = [], None
    for name, items in sorted(found.items()):
        score = next((one for one in SCORES if items and one in items[0]), None)
        if score is None:
            raise ValueError(f"lm_eval.task: {name!r} of {task!r} has no score per item; allowed: tasks with {', '.join(SCORES)}")
        used, first = used or score, items[0].get("filter")
        samples += [
            {"task": name, "item": item["doc_id"], "acc": float(item[score])} for item in items if item.get("filter") == first
        ]
    return samples, used


def version() -> str:
    """The version of lm-eval."""
    from importlib.metadata import version as installed

    return installed("lm_eval")


def rescore(content: dict) -> dict:
    """The mean again from the recorded scores of items: {"value", "n", "mean"}."""
    scores = [sample["acc"] for sample in content["samples"]]
    mean = math.fsum(scores) / len(scores)
    return {"value": 100 * mean, "n": len(scores), "mean": mean}
