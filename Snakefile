"""Unlearning under quantization: method × regularizer × learning rate × … × scheme, from corpus to figures.

The rules are in workflow/rules, what they run in scripts, what a run is in its spec.json. See docs/architecture.md.
"""

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/inputs.smk"


report: "workflow/report/workflow.rst"


wildcard_constraints:
    corpus="[^/]+",
    reference="target|retrain",
    run="[^/]+_[^/]+/[^/]+/seed[0-9]+",
    model="target|retrain|[^/]+_[^/]+/[^/]+/seed[0-9]+(/(step|epoch)[0-9]+)?",
    scheme="[^/]+",
    figure="[^/]+",


localrules:
    all,
    checkpoints,
    scores,
    figures,
    spec,
    scheme,
    sweep,
    aggregate,
    tables,
    masks,
    calibration_effect,
    pages,


# Scores of every cell, the figures drawn from them, the paper's tables, and the page that shows it all.
rule all:
    default_target: True
    input:
        complete("scores", "figures", "tables", "pages"),


# Every target, retrain and unlearned model.
rule checkpoints:
    input:
        [f"{RESULTS}/{run.path}/outcome.json" for run in PLAN.evaluated()],


# The tables of scores and of recovery.
rule scores:
    input:
        complete("scores"),


# The figures, redrawn from cached scores.
rule figures:
    input:
        complete("figures"),


include: "workflow/rules/corpora.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/unlearn.smk"
include: "workflow/rules/quantize.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/mechanism.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
