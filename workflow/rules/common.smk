# The resolved configuration, the plan of the sweep, and what several rules need.
# Nothing here imports torch: a dry run on a login node takes seconds.

import gc
import itertools
import os
import sys
from collections import defaultdict

sys.path.insert(0, workflow.basedir)

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from scripts.core import clocks
from scripts.core import failed_updates
from scripts.core import isolation
from scripts.core import registry
from scripts.core import slurm_polling
from scripts.core.analysis import columns
from scripts.core.planning import calibration
from scripts.core.planning import config as configuration
from scripts.core.planning import damage
from scripts.core.planning import given
from scripts.core.planning import grid
from scripts.core.planning import naming
from scripts.core.planning import serving
from scripts.core.planning import sweep as sweeps
from scripts.core.planning.combinations import trains
from scripts.core.storage import dumps
from scripts.core.storage import ends

slurm_polling.repair()
failed_updates.repair()
clocks.repair()
gc.set_threshold(100_000)  # looking again and again through a large sweep's objects took an eighth of a dry run

# A profile or the command line may name another sweep; it replaces config.yaml instead of being merged into it.
if not workflow.config_settings.configfiles:

    configfile: given.default(workflow.basedir)


try:
    for file in workflow.configfiles:
        given.check_repeated(file)
    PLAN = sweeps.checked(given.overlaid(config, workflow.config_settings.config))
    config = PLAN.config
    CUT_OFF = damage.cut_off(PLAN, config["results"]) if workflow.is_main_process else {}
except damage.Damaged as error:
    raise WorkflowError(str(error)) from None
except ValueError as error:
    raise WorkflowError(f"config: {error}") from None

# Relative where it can be, so that a project that moved is still the same project.
HERE = "" if os.path.samefile(workflow.basedir, os.getcwd()) else f"{workflow.basedir}/"

# `python` in a rule is conda's when Snakemake deploys software, else this one; `scripts` is found from any --directory.
CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
paths = {"PYTHONPATH": workflow.basedir}
if not CONDA:
    paths["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
if not config["resources"]["gpus"]:
    paths["CUDA_VISIBLE_DEVICES"] = ""  # jobs that get no GPU don't take one that happens to be there
os.environ.update(paths)

if workflow.is_main_process:
    logger.info(f"{len(PLAN.cells)} cells: {len(PLAN.evaluated())} models under {len(config['schemes'])} schemes")
    for left in given.left_out(config):
        logger.warning(
            f"{left} is left out now: models whose weights were removed (keep_checkpoints) are trained again; keep it instead"
        )

RESULTS = config["results"]
TEXTS = PLAN.texts()
TEXTS["sweep.json"] = dumps({key: config[key] for key in ("corpora", "schemes", "metrics", "unlearning", "sweep", "evaluation")})
METRICS = list(config["metrics"])
HELD = defaultdict(list)  # path of a run: names of the schemes that hold it
for run, scheme in PLAN.cells:
    HELD[run.path].append(scheme)
UNLEARNED = [run.spec for run in PLAN.runs.values() if run.stage == "unlearn"]
# On a cluster each job is a Snakemake in a Snakemake: only the outermost, which can ask for more, tries again.
RETRIES = config["resources"]["retries"] if workflow.is_main_process else 0
ARTIFACTS = [name for name, scheme in config["schemes"].items() if registry.constants("quantizers", scheme["kind"]).get("ARTIFACT")]
ARITHMETIC = sorted({spec["method"]["name"] for spec in UNLEARNED if not trains(spec["method"]["name"])})
# What a masked run writes beside its checkpoint, by the beginning of its mask's kind; "" is a run without a mask.
MASKS = {"": (), "module": ("mask.json",), "row": ("mask.json", "mask.safetensors")}
POINTS = sorted({(), *(naming.points(spec) for spec in UNLEARNED)})
# How many processes a training has, and how they share it (scripts/launch.py). Resources, because they decide no result. On several
# nodes the job is one of the kind "mpi": then the launcher's own srun starts on each node.
site = config["resources"]
GPU_MODEL = (site["gpu_model"] or "") if site["gpus"] else ""  # alone it would be asked for as --gpus=<model>:0
ranks = {"gpu": site["gpus"] * site["nodes"], "processes": site["gpus"], "hosts": site["nodes"]}
ranks |= {"zero": site["zero"], "offload": site["offload"], "gpu_gb": site["gpu_gb"]}
if site["nodes"] > 1:
    ranks |= {"nodes": site["nodes"], "mpi": "srun", "tasks": site["nodes"], "tasks_per_gpu": 0}
RANKS = " ".join(
    f"--{option} {{resources.{name}}}"
    for option, name in {"gpus": "processes", "nodes": "hosts", "zero": "zero", "offload": "offload", "gpu-gb": "gpu_gb"}.items()
)
THREADS = max(site["threads"], site["gpus"])  # of a training: a core for each of its processes on a node
FIGURES = config["figures"] or list(registry.names("figures"))
PAPER_TABLES = ("precisions", "calibrated", "sure", "retained")
# Tables that figures read, by the names in their TABLES; a new one is a rule that writes <results>/<name>.csv, and its columns.
TABLES = {name: f"{RESULTS}/{name}.csv" for name in columns.TABLES}
rules_output = {
    "scores": [f"{RESULTS}/{name}" for name in ("scores.parquet", "scores.csv", "recovery.csv", "schemes.csv")],
    "figures": [f"{RESULTS}/figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "pdf")],
    "pages": [f"{RESULTS}/report/{name}" for name in ("results.html", "findings.txt")],
    "tables": [f"{RESULTS}/tables/{name}.{kind}" for name in PAPER_TABLES for kind in ("csv", "md", "tex")],
}


def settings(pattern):
    """Input function, without any input, of the job that writes a file of TEXTS: has a file made anew that holds something else.

    Snakemake itself sees a changed text only in its records, which are gone with .snakemake and not asked with --rerun-triggers mtime.
    With a run's spec, what is left of the run's own files is looked at (planning/damage.py).
    """

    def none(wildcards):
        path = pattern.format(**wildcards)
        if path not in TEXTS:
            raise WorkflowError(f"{RESULTS}/{path}: the configuration has no such run or scheme; allowed: one of its sweep")
        if workflow.is_main_process and os.path.exists(f"{RESULTS}/{path}"):
            with open(f"{RESULTS}/{path}", "rb") as file:
                if file.read() != TEXTS[path].encode():
                    workflow.dag.forcefiles.add(f"{RESULTS}/{path}")
        workflow.dag.forcefiles.update(f"{RESULTS}/{file}" for file in CUT_OFF.get(os.path.dirname(path), ()))
        return []

    return none


def program(name):
    """A program as a declared input: a missing one fails the dry run, its date decides nothing."""
    return ancient(f"{HERE}scripts/{name}.py")


def billions(wildcards):
    """Size of a corpus's model in 10^9 parameters."""
    return configuration.billions(config["corpora"][wildcards.corpus]["model"])


def mem_mb(gb_per_billion):
    """Memory of a job: grows with the model and with each attempt, capped by the site's limit."""

    def amount(wildcards, attempt):
        need = (4 + gb_per_billion * billions(wildcards)) * 1024 * attempt
        return int(min(need, config["resources"]["max_mem_mb"]))

    return amount


def runtime(share):
    """Minutes of a job: `share` of a training's assumed time, growing with each attempt, capped by the site's limit."""

    def amount(wildcards, attempt):
        need = (15 + 60 * share * config["resources"]["hours_per_billion"] * billions(wildcards)) * attempt
        return int(min(need, config["resources"]["max_runtime"]))

    return amount


def unless_copied(**resources):
    """Resources of the target and retrain models: as given where they are trained; a published one is copied, without a GPU."""
    copying = {"gpu": 0, "gpu_model": "", "mem_mb": mem_mb(1), "runtime": runtime(0.3)}
    copying |= {"nodes": 1, "tasks": 1, "mpi": ""}  # "": no job of several tasks

    def either(training, copy):
        def amount(wildcards, attempt):
            published = config["corpora"][wildcards.corpus]["model"]["kind"] == "pretrained"
            chosen = copy if published else training
            return chosen(wildcards, attempt) if callable(chosen) else chosen

        return amount

    return {name: either(value, copying[name]) if name in copying else value for name, value in resources.items()}


def gpus_of(scheme):
    """GPUs of the job that quantizes under a scheme: none where its library uses none."""
    hardware = registry.constants("quantizers", config["schemes"][scheme]["kind"])["HARDWARE"]
    return min(1, config["resources"]["gpus"]) if "cuda" in hardware else 0


def kept(checkpoint, *removed_by):
    """An unlearned checkpoint as an output, removed after its last use where `keep_checkpoints` says so."""
    return temp(checkpoint) if config["keep_checkpoints"] in ("until_evaluated", *removed_by) else checkpoint


def runs_with(points):
    """Pattern of the runs whose training keeps these checkpoints along it; () for those that keep none."""
    setting = f"[^/]*_{naming.segment(points)}" if points else "(?![^/]*_at(-ep)?[0-9])[^/]+"
    return f"[^/]+_[^/]+/{setting}/seed[0-9]+"


def base(wildcards):
    """The base run of a corpus whose model is trained from scratch; nothing otherwise."""
    if config["corpora"][wildcards.corpus]["model"]["kind"] != "scratch":
        return {}
    return {
        "base": f"{RESULTS}/{wildcards.corpus}/base/outcome.json",
        "base_weights": ancient(f"{RESULTS}/{wildcards.corpus}/base/checkpoint"),
    }


def environment(name):
    """Environment of a scheme's plugin: a file in envs."""
    return registry.constants("quantizers", config["schemes"][name]["kind"])["ENVIRONMENT"]


def interpreter(environment):
    """Python of an environment; one that is not there is an error that names the command which makes it."""
    if CONDA or environment == "train":
        return "python"
    path = isolation.interpreter(environment)
    return path if HERE else os.path.relpath(path)


def whole_weights(name):
    """The checkpoint that a scheme's environment reads: a restored one where weights are kept as differences."""

    def checkpoint(wildcards):
        whole = config["store_checkpoints"] == "full" or environment(name) == "train" or wildcards.model in ("target", "retrain")
        return ancient(f"{RESULTS}/{wildcards.corpus}/{wildcards.model}/{'checkpoint' if whole else 'restored'}")

    return checkpoint


def metric_files(wildcards):
    """Every metric file of the sweep, or with `partial` those that exist."""
    files = [f"{RESULTS}/{run.path}/eval/{scheme}/{metric}.json" for run, scheme in PLAN.cells for metric in METRICS]
    there = [path for path in files if os.path.exists(path)]
    if config["partial"]:
        return there
    if workflow.is_main_process:
        if len(there) < len(files):
            # Snakemake does not miss what only a finished table was made of: a cell that was removed would stay in it.
            workflow.dag.forcefiles.update(rules_output["scores"])
        workflow.dag.forcefiles.update(path for path in there if not ends(path))  # copied by halves, say: evaluated again
    return files


def mask_files(wildcards):
    """The mask of every masked run of the sweep, or with `partial` of those that have one."""
    files = [f"{RESULTS}/{run.path}/mask.json" for run in PLAN.masked()]
    return [path for path in files if os.path.exists(path)] if config["partial"] else files


def masked(kind):
    """Beginning of a pattern of runs: those whose mask is of a kind; "" for those without a mask."""
    return f"(?=[^/]+/[^/]*_sure-{kind})" if kind else "(?![^/]+/[^/]*_sure-)"


def demands(wildcards):
    """What the sweep's calibration sets ask of a corpus's text, for checks before any training (planning/calibration.py)."""
    return calibration.demands(PLAN, wildcards.corpus)


def schemes_of(wildcards):
    """Names of the schemes that hold an unlearned run."""
    return HELD[f"{wildcards.corpus}/{wildcards.run}"]


def scheme_files(wildcards):
    """Scheme files of an unlearned run."""
    return [f"{RESULTS}/{wildcards.corpus}/schemes/{name}.json" for name in schemes_of(wildcards)]


def scheme_artifacts(wildcards):
    """Quantized models of an unlearned run and of its target, as far as schemes keep them on disk."""
    folders = (f"{wildcards.corpus}/{wildcards.run}", f"{wildcards.corpus}/target")
    return [f"{RESULTS}/{path}/quantized/{name}" for name in schemes_of(wildcards) if name in ARTIFACTS for path in folders]


def mechanism_files(wildcards):
    """mechanism.json of every unlearned run, or with `partial` those that exist; one that was cut off is made anew.

    Not of a run whose weights were removed before anybody asked for it: no training is repeated for a figure.
    """
    runs = [f"{RESULTS}/{run.path}" for run in PLAN.evaluated() if run.stage == "unlearn" and not run.point]
    there = {run: ends(f"{run}/mechanism.json") for run in runs}
    if not config["partial"]:
        there |= {run: True for run in runs if os.path.exists(f"{run}/checkpoint") or not os.path.exists(f"{run}/outcome.json")}
    files = [f"{run}/mechanism.json" for run in runs if there[run]]
    if workflow.is_main_process:
        workflow.dag.forcefiles.update(path for path in files if os.path.exists(path) and not ends(path))
    return files


def caption(name):
    """The caption of a figure or table in the report: workflow/report/<name>.rst; a figure may do without."""
    path = f"{workflow.basedir}/workflow/report/{name}.rst"
    return path if os.path.exists(path) else None
