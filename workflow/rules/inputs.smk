# What rules read: the texts of specs, the files of several runs at once, and the patterns that tell runs apart.

import itertools
from collections import defaultdict

from scripts.core.planning import naming
from scripts.core.planning.combinations import trains
from scripts.core.storage import dumps
from scripts.core.storage import ends

# Content of every spec and scheme file, by path below the results folder.
TEXTS = PLAN.texts()
TEXTS["sweep.json"] = dumps({key: config[key] for key in ("corpora", "schemes", "metrics", "unlearning", "sweep", "evaluation")})
HELD = defaultdict(list)  # path of a run: names of the schemes that hold it
for run, scheme in PLAN.cells:
    HELD[run.path].append(scheme)
UNLEARNED = [run.spec for run in PLAN.runs.values() if run.stage == "unlearn"]
ARITHMETIC = sorted({spec["method"]["name"] for spec in UNLEARNED if not trains(spec["method"]["name"])})
POINTS = sorted({(), *(naming.points(spec) for spec in UNLEARNED)})
# What a masked run writes beside its checkpoint, by the beginning of its mask's kind; "" is a run without a mask.
MASKS = {"": (), "module": ("mask.json",), "row": ("mask.json", "mask.safetensors")}


def when_changed(pattern):
    """Input function of the rules that write a file of TEXTS. It gives no input, but has a file that differs written again.

    Snakemake by itself sees a changed text in its records alone, which are gone when .snakemake is removed and are not asked with
    --rerun-triggers mtime. With a run's spec, what is left of the run's own files is looked at (planning/damage.py).
    """

    def no_input(wildcards):
        path = pattern.format(**wildcards)
        if path not in TEXTS:
            raise WorkflowError(f"{RESULTS}/{path}: the configuration has no such run or scheme; allowed: one of its sweep")
        if workflow.is_main_process and os.path.exists(f"{RESULTS}/{path}"):
            with open(f"{RESULTS}/{path}", "rb") as file:
                if file.read() != TEXTS[path].encode():
                    workflow.dag.forcefiles.add(f"{RESULTS}/{path}")
        workflow.dag.forcefiles.update(f"{RESULTS}/{file}" for file in CUT_OFF.get(os.path.dirname(path), ()))
        return []

    return no_input


def program(name):
    """A program as a declared input: a missing one fails the dry run, its date decides nothing."""
    return ancient(f"{HERE}scripts/{name}.py")


def base(wildcards):
    """The base run of a corpus whose model is trained from scratch; nothing otherwise."""
    if config["corpora"][wildcards.corpus]["model"]["kind"] != "scratch":
        return {}
    return {
        "base": f"{RESULTS}/{wildcards.corpus}/base/outcome.json",
        "base_weights": ancient(f"{RESULTS}/{wildcards.corpus}/base/checkpoint"),
    }


def kept(checkpoint, *removed_by):
    """An unlearned checkpoint as an output, removed after its last use where `keep_checkpoints` says so."""
    return temp(checkpoint) if config["keep_checkpoints"] in ("until_evaluated", *removed_by) else checkpoint


def runs_with(points):
    """Pattern of the runs whose training keeps these checkpoints along it; () for those that keep none."""
    setting = f"[^/]*_{naming.segment(points)}" if points else "(?![^/]*_at(-ep)?[0-9])[^/]+"
    return f"[^/]+_[^/]+/{setting}/seed[0-9]+"


def unlearning(points, kind):
    """What the job of runs with these checkpoints and this kind of mask is called: unlearn, unlearn_at100-200_module, …"""
    return "_".join(filter(None, ["unlearn", points and naming.segment(points), kind]))


def masked(kind):
    """Beginning of a pattern of runs: those whose mask is of a kind; "" for those without a mask."""
    return f"(?=[^/]+/[^/]*_sure-{kind})" if kind else "(?![^/]+/[^/]*_sure-)"


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
            workflow.dag.forcefiles.update(OUTPUTS["scores"])
        workflow.dag.forcefiles.update(path for path in there if not ends(path))  # copied by halves, say: evaluated again
    return files


def complete(*names):
    """Input function of a target of the Snakefile: the files of OUTPUTS by their names, and metric files that tables lack.

    Where no rule can make a metric file, Snakemake takes old tables for made by hand and says that there is nothing to do; as an
    input of the target itself it is missed.
    """

    def files(wildcards):
        lacking = []
        if os.path.exists(OUTPUTS["scores"][0]) and not config["partial"]:
            lacking = [path for path in metric_files(wildcards) if not os.path.exists(path)]
        return lacking + [file for name in names for file in OUTPUTS[name]]

    return files


def mask_files(wildcards):
    """The mask of every masked run of the sweep, or with `partial` of those that have one."""
    files = [f"{RESULTS}/{run.path}/mask.json" for run in PLAN.masked()]
    return [path for path in files if os.path.exists(path)] if config["partial"] else files


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
