"""From the configuration to the table of cells: what is run, where it lies, what is left out and why.

A *run* is one trained (or published) model, described by its spec; a *cell* is a run under a quantization scheme. Runs and
cells are plain data, made without torch, so that a login node builds a DAG of ten thousand cells in seconds.
"""

from dataclasses import dataclass, field
from itertools import product

from scripts.core import layers, registry, serving
from scripts.core.checking import ConfigError, check_object, check_value
from scripts.core.config import definition, lean
from scripts.core.storage import dumps

AXES = ("corpus", "method", "regularizer", "seed")
SEED = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
NAMED = (
    "lr",
    "weights",
    "epochs",
    "max_steps",
)  # always part of a path; other keys only where they differ from the default


SHORT = {"gradient_checkpointing": "recompute", "compile": "compiled"}


@dataclass(frozen=True)
class Run:
    """One model: `path` below the results folder, and its spec (parsed JSON).

    point: "step100" or "epoch3" for a checkpoint along a training, which the run of the path above makes; "" for the last.
    """

    path: str
    spec: dict
    point: str = ""

    @property
    def stage(self) -> str:
        """corpus, base, target, retrain, reinforced or unlearn."""
        return self.spec["stage"]

    @property
    def corpus(self) -> str:
        """Name of the corpus."""
        return self.spec["corpus"]["name"]


@dataclass
class Plan:
    """All of a sweep: runs by path, scheme files by path, evaluated cells, and what was pruned with the reason."""

    config: dict
    runs: dict = field(default_factory=dict)
    schemes: dict = field(default_factory=dict)
    cells: list = field(default_factory=list)
    pruned: list = field(default_factory=list)

    def evaluated(self) -> list:
        """Runs that are evaluated: all but corpora, base and reinforced models."""
        return [run for run in self.runs.values() if run.stage in ("target", "retrain", "unlearn")]

    def masked(self) -> list:
        """Trainings with a saliency mask, each of which writes mask.json beside its checkpoint."""
        return [run for path, run in self.runs.items() if "saliency" in run.spec.get("training", {}) and run.spec["run"] == path]

    def texts(self) -> dict:
        """Content of every spec and scheme file by path below the results folder."""
        files = {f"{path}/spec.json": dumps(run.spec) for path, run in self.runs.items() if not run.point}
        return files | {path: dumps(content) for path, content in self.schemes.items()}

    def rows(self) -> list[dict]:
        """One row per run × scheme × metric, as the aggregation reads them."""
        metrics = self.config["metrics"]
        return [
            labels(run) | {"scheme": scheme, "metric": metric, "kind": metrics[metric]["kind"]}
            for run, scheme in self.cells
            for metric in metrics
        ]


def labels(run: Run) -> dict:
    """The columns that name a run in every table; parameters that are not columns of their own are in `axes`."""
    spec, training = run.spec, run.spec.get("training", {})
    unlearned = run.stage == "unlearn"
    method = dict(spec["method"]) if unlearned else {"name": run.stage}
    regularizer = dict(spec["regularizer"]) if unlearned else {"name": "none"}
    columns = {
        "run": run.path,
        "corpus": run.corpus,
        "method": method.pop("name"),
        "regularizer": regularizer.pop("name"),
        "lr": training.get("lr", "") if unlearned else "",
        "weights": training.get("weights", "") if unlearned else "",
        "moments": training.get("moments", "") if unlearned else "",
        "setting": run.path.split("/")[2] if unlearned else "",
        "checkpoint": run.point,
        "seed": spec.get("seed", 0),
    }
    rest = {k: v for k, v in training.items() if k not in columns} if unlearned else {}
    rest |= {k: spec["model"][k] for k in ("hidden",) if unlearned and k in spec["model"]}  # to draw scores against width
    return columns | {"axes": method | regularizer | rest}


def plan(config: dict) -> Plan:
    """The whole sweep of a resolved configuration; ConfigError for the first wrong cell."""
    sweep = Plan(config)
    for block, entry in enumerate(config["sweep"]):
        for cell in expand(entry, f"sweep[{block}]", config, sweep.pruned):
            add(sweep, cell)
    check_stop(sweep)
    serving.check(config, sweep.evaluated())
    for name in {run.corpus: None for run in sweep.runs.values()}:
        for scheme, parameters in config["schemes"].items():
            sweep.schemes[f"{name}/schemes/{scheme}.json"] = {
                "corpus": {"name": name, **{k: v for k, v in config["corpora"][name].items() if k != "model"}},
                "scheme": {"name": scheme, **parameters},
                "metrics": config["metrics"],
                "batch_tokens": config["evaluation"]["batch_tokens"],
                **({} if config["evaluation"]["engine"] == "transformers" else {"engine": config["evaluation"]["engine"]}),
            }
    for run in sweep.evaluated():
        for scheme, parameters in config["schemes"].items():
            reason = misfit(run, parameters) or spared(run, parameters, config)
            if reason:
                sweep.pruned.append(f"{run.path} under {scheme}: {reason}")
            else:
                sweep.cells.append((run, scheme))
    return sweep


def check_stop(sweep: Plan) -> None:
    """ConfigError where `evaluation.stop` has nothing to choose from or nothing to choose by."""
    evaluation = sweep.config["evaluation"]
    if evaluation["stop"] == "none":
        return
    if not any(run.point for run in sweep.runs.values()):
        raise ConfigError(
            f"evaluation.stop: {evaluation['stop']!r} chooses among checkpoints, and no block keeps any; allowed: none, or "
            "checkpoint_at in a block of the sweep, e.g. [100, 200]"
        )
    metric = sweep.config["metrics"].get(evaluation["stop_metric"], {})
    if metric.get("kind") not in ("verbmem", "knowmem") or metric.get("split") != "forget":
        raise ConfigError(
            f"evaluation.stop_metric: {evaluation['stop_metric']!r} is no VerbMem or KnowMem of the forget set among metrics; "
            f"{registry.nearest(evaluation['stop_metric'], sweep.config['metrics'])}"
        )
    if "full" not in sweep.config["schemes"]:
        raise ConfigError("evaluation.stop: needs full precision; allowed: a scheme named full, {kind: full}, among schemes")


def expand(block: dict, key: str, config: dict, pruned: list) -> list[dict]:
    """The cells of a block, checked; combinations that make no sense go to `pruned`, values that no cell uses are errors."""
    methods, regularizers = (
        as_list(block.get("method"), f"{key}.method"),
        as_list(block.get("regularizer", "none"), f"{key}.regularizer"),
    )
    for axis in ("corpus", "method"):
        if axis not in block:
            raise ConfigError(f"{key}.{axis}: missing; allowed: a name or a list of names")
    for name in methods:
        registry.require("methods", name, f"{key}.method")
    for name in regularizers:
        registry.require("regularizers", name, f"{key}.regularizer")
    own = (
        {n: registry.parameters("methods", n) for n in methods},
        {n: registry.parameters("regularizers", n) for n in regularizers},
    )
    extras = {k: v for room in own for parameters in room.values() for k, v in parameters.items()}
    training = definition("unlearning")["properties"]
    for name in block:
        if name not in (*AXES, *training, *extras):
            raise unknown(name, block[name], key, (*AXES, *training, *extras))
    # A list of a key that is itself a list (checkpoint_at) is one value; a list of lists is an axis.
    whole = {name for name, entry in training.items() if entry.get("type") == "array" and not nested(block.get(name))}
    values = {name: [block[name]] if name in whole else as_list(block[name], f"{key}.{name}") for name in block}
    values.setdefault("regularizer", regularizers)
    values.setdefault("seed", [0])
    used, cells = set(), []
    for combination in product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        applies = {*own[0][chosen["method"]], *own[1][chosen["regularizer"]], *AXES, *counted(chosen, config)}
        used |= applies & chosen.keys()
        cell = check_cell({k: v for k, v in chosen.items() if k in applies}, key, config)
        reason = next((text for text, misplaced in PRUNED if misplaced(cell)), None)
        if reason:
            pruned.append(f"{key}: {cell['method']['name']} with {cell['regularizer']['name']}: {reason}")
        else:
            cells.append(cell)
    for name in values.keys() - used:
        where = f"method {', '.join(methods)} with regularizer {', '.join(regularizers)}"
        raise ConfigError(f"{key}.{name}: {block[name]!r} applies to no cell of the block ({where}); allowed: remove the key")
    return cells


def unknown(name: str, value, key: str, known) -> ConfigError:
    """An unknown key of a block; tells apart a parameter of a plugin that the block does not name."""
    for room in ("methods", "regularizers"):
        for plugin in registry.names(room):
            if name in registry.parameters(room, plugin):
                return ConfigError(
                    f"{key}.{name}: {value!r} belongs to {plugin} in {room}, which this block lacks; allowed: remove the key"
                )
    return ConfigError(f"{key}.{name}: unknown key (value {value!r}); {registry.nearest(name, known)}")


def nested(value) -> bool:
    """Whether a value is a list of lists: an axis of a key whose values are lists."""
    return isinstance(value, list) and any(isinstance(part, list) for part in value)


def as_list(value, key: str) -> list:
    """A value or a list of values as a list without repetitions; an empty list is an error."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{key}: [] is not allowed; allowed: a value or a list of at least one")
    return [v for i, v in enumerate(values) if v not in values[:i]]


def check_cell(chosen: dict, key: str, config: dict) -> dict:
    """One combination as {'corpus', 'seed', 'method': {…}, 'regularizer': {…}, 'training': {…}}, defaults filled in."""
    if chosen["corpus"] not in config["corpora"]:
        raise ConfigError(
            f"{key}.corpus: unknown name {chosen['corpus']!r}; {registry.nearest(chosen['corpus'], config['corpora'])}"
        )
    check_value(chosen["seed"], SEED, f"{key}.seed")
    parts = {}
    for part, room in (("method", "methods"), ("regularizer", "regularizers")):
        properties = registry.parameters(room, chosen[part])
        own = {k: chosen[k] for k in properties if k in chosen}
        parts[part] = {"name": chosen[part], **check_object(own, properties, key)}
    properties = definition("unlearning")["properties"]
    training = config["unlearning"] | {k: chosen[k] for k in properties if k in chosen}
    training = check_object(training, properties, key)
    if training["max_steps"] is not None:
        training["epochs"] = None  # the steps decide
    if training["moments"] == "auto":
        training["moments"] = "fp32" if training["weights"] == "fp32" else "bf16"
    for name in ("percentile", "lora_alpha"):
        training[name] = float(training[name])  # 90 and 90.0 are one run
    training["checkpoint_at"] = check_points(training, key)
    keep = lean(training).keys() | {name for name, schema in properties.items() if "only_with" in schema}
    keep &= counted(chosen, config)
    training = {name: value for name, value in training.items() if name in keep}
    check_targets(training, config["corpora"][chosen["corpus"]]["model"], key)
    seed = chosen["seed"] if trains(chosen["method"]) else 0  # arithmetic on checkpoints draws nothing: seeds are one run
    return {"corpus": chosen["corpus"], "seed": seed, **parts, "training": training}


def check_targets(training: dict, model: dict, key: str) -> None:
    """ConfigError for a LoRA target that no layer of the model has, as far as its layers are known before a job loads it."""
    names = layers.linear_names(model) if training.get("lora_targets", "all") != "all" else None
    wrong = layers.unmatched(names, training["lora_targets"]) if names else None
    if wrong is not None:
        known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))
        raise ConfigError(f"{key}.lora_targets: {wrong!r} matches no Linear layer of the model; allowed: all, or {known}")


def check_points(training: dict, key: str) -> list[int]:
    """`checkpoint_at` in order and without repetitions; ConfigError for one that does not lie before the end."""
    steps = training["max_steps"]
    length, unit = (training["epochs"], "epochs") if steps is None else (steps, "steps")
    at = sorted(set(training["checkpoint_at"]))
    if at and at[-1] >= length:
        raise ConfigError(
            f"{key}.checkpoint_at: {at[-1]} does not lie before the end of a run of {length} {unit}, which is always kept; "
            f"allowed: 1 to {length - 1}"
        )
    return at


def points(spec: dict) -> tuple[str, ...]:
    """Names of the checkpoints along a run's training, in its own unit: ("step100", …) or ("epoch1", …)."""
    training = spec.get("training", {})
    unit = "epoch" if training.get("max_steps") is None else "step"
    return tuple(f"{unit}{number}" for number in training.get("checkpoint_at", ()))


def trains(method: str) -> bool:
    """Whether a method is a training, and not arithmetic on checkpoints."""
    return registry.constants("methods", method).get("KIND") != "arithmetic"


def counted(chosen: dict, config: dict) -> set[str]:
    """Keys of the training settings that play a part in a combination."""
    properties = definition("unlearning")["properties"]
    if not trains(chosen["method"]):
        return set(registry.constants("methods", chosen["method"]).get("TRAINING", ()))
    values = {k: schema.get("default") for k, schema in properties.items()} | config["unlearning"] | chosen

    def idle(schema):
        other = schema.get("only_with")
        return other is not None and values[other] == properties[other]["default"]

    idle_keys = {name for name, schema in properties.items() if idle(schema)}
    rooms = (("methods", chosen["method"]), ("regularizers", chosen["regularizer"]))
    asked = {need for room, name in rooms for need in registry.constants(room, name).get("NEEDS", ())}
    if not asked & {"distribution", "logits", "model"}:
        idle_keys |= {"reference", "reference_k"}  # nothing of the target's distributions is kept
    elif values["reference"] != "topk":
        idle_keys.add("reference_k")
    return properties.keys() - idle_keys


PRUNED = [
    (
        "the method takes no regularizer",
        lambda cell: (
            cell["regularizer"]["name"]
            not in registry.constants("methods", cell["method"]["name"]).get("REGULARIZERS", registry.names("regularizers"))
        ),
    ),
    (
        "SURE chooses among the model's own weights; LoRA trains others",
        lambda cell: cell["training"].get("saliency") and cell["training"].get("parameters") == "lora",
    ),
    (
        "the method reads the whole target model, which a table of its distributions does not hold",
        lambda cell: cell["training"].get("reference") in ("cached", "topk") and "model" in needs(cell),
    ),
    (
        "raw logits of the target can't be had from its most likely tokens",
        lambda cell: cell["training"].get("reference") == "topk" and "logits" in needs(cell),
    ),
    (
        "8-bit and paged optimisers write fp32 weights, and whole ones",
        lambda cell: (
            cell["training"].get("optimizer")
            and (cell["training"]["weights"] != "fp32" or str(cell["training"].get("saliency")).startswith("row"))
        ),
    ),
]


def misfit(run: Run, scheme: dict) -> str | None:
    """Why a run can't be held by a scheme, or None."""
    quantizer = registry.constants("quantizers", scheme["kind"])
    if run.stage == "unlearn":
        method = run.spec["method"]["name"]
        if method in quantizer.get("EXCLUDED_METHODS", ()):
            return f"{scheme['kind']} can't hold a model of {method}"
        if quantizer.get("ARTIFACT") and registry.constants("methods", method).get("PARTS", 1) > 1:
            return f"{scheme['kind']} writes the files of one model, {method} is made of two"
    return None


def spared(run: Run, scheme: dict, config: dict) -> str | None:
    """Why a run is not evaluated under a scheme that could hold it, or None."""
    wanted = config["evaluation"]["retrain"] == "all" or run.stage != "retrain" or scheme["kind"] == "full"
    return None if wanted else "evaluation.retrain is full"


def evaluations(config: dict) -> list[list[str]]:
    """Names of the schemes that share an evaluation job, at most `evaluation.schemes_per_job` each.

    They are all made in memory, or all from files of one environment: one that can't be made stops no others. vLLM holds a GPU's
    memory to the end of its process: there each scheme has a job of its own.
    """
    evaluation, together = config["evaluation"], {}
    per_job = 1 if evaluation["engine"] == "vllm" else evaluation["schemes_per_job"]
    for name, scheme in config["schemes"].items():
        facts = registry.constants("quantizers", scheme["kind"])
        together.setdefault(facts["ENVIRONMENT"] if facts.get("ARTIFACT") else "", []).append(name)
    return [names[i : i + per_job] for names in together.values() for i in range(0, len(names), per_job)]


def number(value) -> str:
    """A value as it stands in a path."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def setting(cell: dict) -> str:
    """The path segment that tells a run's settings: lr, weights, length, α, then whatever differs from the schema's defaults."""
    training, parts = cell["training"], []
    if "lr" in training:
        length = f"ep{training['epochs']}" if training["max_steps"] is None else f"st{training['max_steps']}"
        parts = [f"lr{training['lr']}", training["weights"], length]
    own = {**cell["method"], **cell["regularizer"]}
    if "alpha" in own:
        parts.append(f"a{number(own['alpha'])}")
    for room, part in (("methods", "method"), ("regularizers", "regularizer")):
        for name, schema in sorted(registry.parameters(room, cell[part]["name"]).items()):
            if name != "alpha" and cell[part][name] != schema.get("default"):
                parts.append(f"{name}{number(cell[part][name])}")
    for name, schema in definition("unlearning")["properties"].items():
        if name in NAMED or name not in training or "sparse" in schema or "only_with" in schema:
            continue
        default = schema.get("default")
        if name == "moments":
            default = "fp32" if training["weights"] == "fp32" else "bf16"
        if training[name] != default:
            parts.append(f"{name.replace('_', '-')}{number(training[name])}")
    if "saliency" in training:
        double = "-double" if training["sure_double"] else ""
        parts.append(f"sure-{training['saliency']}{number(training['percentile'])}{double}")
    if "parameters" in training:
        targets = "" if training["lora_targets"] == "all" else f"-{training['lora_targets']}"
        parts.append(f"lora{training['rank']}-{number(training['lora_alpha'])}{targets}")
    if "reference" in training:
        parts.append(f"ref-{training['reference']}{training.get('reference_k', '')}")
    parts += [short for name, short in SHORT.items() if training.get(name) is True]
    parts += [training[name].replace("_", "-") for name in ("attention", "optimizer") if name in training]
    if "checkpoint_at" in training:
        parts.append(segment(points({"training": training})))
    return "_".join(parts) or "default"


def segment(names: tuple[str, ...]) -> str:
    """How checkpoints along a training stand in a path: at100-200, or at-ep1-2 in epochs."""
    unit = "-ep" if names[0].startswith("epoch") else ""
    return f"at{unit}" + "-".join(name.removeprefix("step").removeprefix("epoch") for name in names)


def needed_splits(cell: dict, model: dict) -> list[str]:
    """Splits of the raw text that a cell's trainings read."""
    trained = model["kind"] != "pretrained"
    read = cell["regularizer"]["name"] != "none" or "retain" in needs(cell)
    return ["forget"] + (["retain1"] if trained or read else [])


def needs(cell: dict) -> tuple:
    """What a cell's method and regularizer ask for besides the forget batch: the union of their NEEDS."""
    chosen = (("methods", cell["method"]), ("regularizers", cell["regularizer"]))
    return tuple(need for room, part in chosen for need in registry.constants(room, part["name"]).get("NEEDS", ()))


def add(sweep: Plan, cell: dict) -> None:
    """Enter a cell's run and the runs that it needs; a run that is there already stays as it is."""
    name = cell["corpus"]
    entry = sweep.config["corpora"][name]
    for split in needed_splits(cell, entry["model"]):
        if split not in entry.get("splits", [split]):
            what = f"{cell['method']['name']} with {cell['regularizer']['name']}"
            raise ConfigError(
                f"corpora.{name}.splits: {entry['splits']} lacks {split!r}, which {what} needs; allowed: a list with it"
            )
    references(sweep, name)
    if "reinforced" in needs(cell):
        reinforced(sweep, name, cell["method"]["name"])
    path = f"{name}/{cell['method']['name']}_{cell['regularizer']['name']}/{setting(cell)}/seed{cell['seed']}"
    corpus = sweep.runs[f"{name}/target"].spec["corpus"]
    spec = {"stage": "unlearn", "run": path, "model": relevant(sweep.config["corpora"][name]["model"], "target")}
    run = sweep.runs.setdefault(path, Run(path, spec | cell | {"corpus": corpus}))
    for point in points(run.spec):
        sweep.runs.setdefault(f"{path}/{point}", Run(f"{path}/{point}", run.spec, point))


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
