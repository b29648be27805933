# The resolved configuration, the plan of its sweep, what it gives, and the software that jobs run in.
# Nothing here imports torch: a dry run on a login node takes seconds.

import gc
import os
import sys

sys.path.insert(0, workflow.basedir)

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from scripts.core import clocks
from scripts.core import failed_updates
from scripts.core import guard
from scripts.core import isolation
from scripts.core import registry
from scripts.core import slurm_polling
from scripts.core.analysis import columns
from scripts.core.planning import damage
from scripts.core.planning import given
from scripts.core.planning import grid
from scripts.core.planning import serving
from scripts.core.planning import sweep as sweeps

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
    given.check_dropped([*map(given.content, workflow.configfiles), workflow.config_settings.config])
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
variables = {"PYTHONPATH": workflow.basedir}
if not CONDA:
    variables["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
if not config["resources"]["gpus"]:
    variables["CUDA_VISIBLE_DEVICES"] = ""  # jobs that get no GPU don't take one that happens to be there
os.environ.update(variables)

if workflow.is_main_process:
    logger.info(f"{len(PLAN.cells)} cells: {len(PLAN.evaluated())} models under {len(config['schemes'])} schemes")
    for left in given.left_out(config):
        logger.warning(
            f"{left} is left out now: models whose weights were removed (keep_checkpoints) are trained again; keep it instead"
        )

RESULTS = config["results"]
METRICS = list(config["metrics"])
FIGURES = config["figures"] or list(registry.names("figures"))
PAPER_TABLES = ("precisions", "calibrated", "sure", "retained")
ARTIFACTS = [name for name, scheme in config["schemes"].items() if registry.constants("quantizers", scheme["kind"]).get("ARTIFACT")]
# Tables that figures read, by the names in their TABLES; a new one is a rule that writes <results>/<name>.csv, and its columns.
TABLES = {name: f"{RESULTS}/{name}.csv" for name in columns.TABLES}
# What the named targets of the Snakefile ask for.
OUTPUTS = {
    "scores": [f"{RESULTS}/{name}" for name in ("scores.parquet", "scores.csv", "recovery.csv", "schemes.csv")],
    "figures": [f"{RESULTS}/figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "pdf")],
    "pages": [f"{RESULTS}/report/{name}" for name in ("results.html", "findings.txt")],
    "tables": [f"{RESULTS}/tables/{name}.{kind}" for name in PAPER_TABLES for kind in ("csv", "md", "tex")],
}


onstart:
    try:
        guard.claim(RESULTS)
    except guard.InUse as error:
        raise WorkflowError(str(error)) from None


def environment(name):
    """Environment of a scheme's plugin: a file in envs."""
    return registry.constants("quantizers", config["schemes"][name]["kind"])["ENVIRONMENT"]


def interpreter(environment):
    """Python of an environment; one that is not there is an error that names the command which makes it."""
    if CONDA or environment == "train":
        return "python"
    path = isolation.interpreter(environment)
    return path if HERE else os.path.relpath(path)


def caption(name):
    """The caption of a figure or table in the report: workflow/report/<name>.rst; a figure may do without."""
    path = f"{workflow.basedir}/workflow/report/{name}.rst"
    return path if os.path.exists(path) else None
