"""From the configuration to the plan of its sweep: what is run, where it lies, what is left out and why.

blocks.py makes combinations of the sweep's blocks and combinations.py checks each; lineage.py adds the runs that one needs, under
the path that naming.py gives; pruning.py says what is left out. plan.py has the result's classes.
"""

from scripts.core import registry
from scripts.core.planning import serving
from scripts.core.planning.blocks import expand
from scripts.core.planning.checking import ConfigError
from scripts.core.planning.lineage import add
from scripts.core.planning.plan import Plan
from scripts.core.planning.pruning import misfit, unasked


def plan(config: dict) -> Plan:
    """The whole sweep of a resolved configuration; ConfigError for the first wrong combination."""
    sweep = Plan(config)
    for block, entry in enumerate(config["sweep"]):
        for combination in expand(entry, f"sweep[{block}]", config, sweep.pruned):
            add(sweep, combination)
    if not sweep.runs:
        raise ConfigError(f"sweep: no combination is left ({sweep.pruned[0]}); allowed: at least one combination that makes sense")
    check_stop(sweep)
    serving.check(config, sweep.evaluated())
    for corpus in {run.corpus: None for run in sweep.runs.values()}:
        for scheme in config["schemes"]:
            sweep.schemes |= scheme_files(corpus, scheme, config)
    for run in sweep.evaluated():
        for scheme, parameters in config["schemes"].items():
            reason = misfit(run, parameters) or unasked(run, parameters, config)
            if reason:
                sweep.pruned.append(f"{run.path} under {scheme}: {reason}")
            else:
                sweep.cells.append((run, scheme))
    return sweep


def scheme_files(corpus: str, scheme: str, config: dict) -> dict:
    """{path: content}: a scheme by itself, and the settings of an evaluation under it.

    Two files, so that another metric or engine quantizes nothing anew. Only an engine that is not the default is named, so that
    older files stay as they are.
    """
    evaluation, alone = config["evaluation"], {"scheme": {"name": scheme, **config["schemes"][scheme]}}
    content = alone | {
        "corpus": {"name": corpus, **{k: v for k, v in config["corpora"][corpus].items() if k != "model"}},
        "metrics": config["metrics"],
        "batch_tokens": evaluation["batch_tokens"],
    }
    if evaluation["engine"] != "transformers":
        content["engine"] = evaluation["engine"]
    return {f"{corpus}/schemes/{scheme}.json": alone, f"{corpus}/evaluations/{scheme}.json": content}


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


def evaluations(config: dict) -> list[list[str]]:
    """Names of the schemes that share an evaluation job, at most `evaluation.schemes_per_job` each.

    Only schemes with the same `made_in` share a job, so that one which can't be made does not stop the others.
    """
    together, per_job = {}, schemes_per_job(config)
    for name, scheme in config["schemes"].items():
        together.setdefault(made_in(scheme), []).append(name)
    return [names[i : i + per_job] for names in together.values() for i in range(0, len(names), per_job)]


def schemes_per_job(config: dict) -> int:
    """How many schemes share an evaluation job at most; one under vLLM, which holds a GPU's memory to the end of its process."""
    return 1 if config["evaluation"]["engine"] == "vllm" else config["evaluation"]["schemes_per_job"]


def made_in(scheme: dict) -> str:
    """The environment that writes a scheme's files; "" where the model is quantized in memory."""
    facts = registry.constants("quantizers", scheme["kind"])
    return facts["ENVIRONMENT"] if facts.get("ARTIFACT") else ""
