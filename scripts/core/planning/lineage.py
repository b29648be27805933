"""The runs that a combination needs: its own, the two reference models, what they start from, and their specs."""

from scripts.core.planning.checking import ConfigError
from scripts.core.planning.combinations import needs, reads_retain
from scripts.core.planning.naming import points, setting
from scripts.core.planning.plan import Plan, Run

LONGEST = 200  # letters of a setting in a path


def add(sweep: Plan, combination: dict) -> None:
    """Enter a combination's run and the runs that it needs; a run that is there already stays as it is."""
    name = combination["corpus"]
    entry = sweep.config["corpora"][name]
    for split in needed_splits(combination, entry["model"]):
        if split not in entry.get("splits", [split]):
            what = f"{combination['method']['name']} with {combination['regularizer']['name']}"
            raise ConfigError(
                f"corpora.{name}.splits: {entry['splits']} lacks {split!r}, which {what} needs; allowed: a list with it"
            )
    references(sweep, name)
    if "reinforced" in needs(combination):
        reinforced(sweep, name, combination["method"]["name"])
    pair = f"{combination['method']['name']}_{combination['regularizer']['name']}"
    path = f"{name}/{pair}/{setting(combination)}/seed{combination['seed']}"
    corpus = sweep.runs[f"{name}/target"].spec["corpus"]
    check_path(path)
    spec = {"stage": "unlearn", "run": path, "model": relevant(entry["model"], "target"), **combination, "corpus": corpus}
    run = sweep.runs.setdefault(path, Run(path, spec))
    if run.spec != spec:
        differ = [part for part in combination if run.spec[part] != spec[part]]
        raise ConfigError(
            f"sweep: two combinations with different {', '.join(differ)} have the same folder, {path}; "
            "allowed: values that differ in their first six digits"
        )
    for point in points(run.spec):
        sweep.runs.setdefault(f"{path}/{point}", Run(f"{path}/{point}", run.spec, point))


def check_path(path: str) -> None:
    """ConfigError for a setting that is too long: a file name has 255 bytes, and cluster logs put the whole path into one."""
    length = len(path.split("/")[2])
    if length > LONGEST:
        raise ConfigError(
            f"sweep: the settings of {path[:80]}… take {length} letters of its path; allowed: {LONGEST}, that is fewer checkpoints "
            "in checkpoint_at, or fewer names in lora_targets"
        )


def needed_splits(combination: dict, model: dict) -> list[str]:
    """Splits of the raw text that a combination's trainings read."""
    trained = model["kind"] != "pretrained"
    return ["forget"] + ["retain1"] * (trained or reads_retain(combination)) + ["pretrain"] * (model["kind"] == "scratch")


def references(sweep: Plan, name: str) -> None:
    """The corpus, base, target and retrain runs of a corpus."""
    if f"{name}/target" in sweep.runs:
        return
    entry = sweep.config["corpora"][name]
    model = entry["model"]
    corpus = {"name": name, **{k: v for k, v in entry.items() if k != "model"}}
    stages = ["corpus", *(["base"] if model["kind"] == "scratch" else []), "target", "retrain"]
    for stage in stages:
        spec = {"stage": stage, "run": f"{name}/{stage}", "corpus": corpus}
        if stage != "corpus":
            spec |= {"model": relevant(model, stage), "seed": model.get("seed", 0)}
        sweep.runs[f"{name}/{stage}"] = Run(f"{name}/{stage}", spec)


def reinforced(sweep: Plan, name: str, method: str) -> None:
    """The run that trains the target further on forget text, once per corpus; ConfigError without its recipe."""
    model = sweep.config["corpora"][name]["model"]
    if "reinforce" not in model:
        raise ConfigError(
            f"corpora.{name}.model.reinforce: missing; method {method} needs it; "
            "allowed: a recipe for the target's further training on forget text, e.g. {steps: 100, lr: '1e-5'}"
        )
    path, corpus = f"{name}/reinforced", sweep.runs[f"{name}/target"].spec["corpus"]
    spec = {"stage": "reinforced", "run": path, "corpus": corpus, "model": relevant(model, "reinforced")}
    sweep.runs.setdefault(path, Run(path, spec | {"seed": model.get("seed", 0)}))


def relevant(model: dict, stage: str) -> dict:
    """The part of a model's entry that a stage depends on: a base run does not change with the fine-tuning recipe."""
    unread = {"reinforce"} if stage != "reinforced" else set()
    if stage == "base":
        unread.add("finetune")
    elif model["kind"] == "pretrained":
        unread.add("target" if stage == "retrain" else "retrain")
    return {k: v for k, v in model.items() if k not in unread}
