"""Synthetic tables of a sweep, and what a figure shows of them, read back from its artists."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.text import Text

from scripts.core import registry
from scripts.core.analysis import columns, tables
from scripts.core.analysis.columns import LABELS

SCHEMES = ("full", "bnb_fp4", "rtn_int4_tensor")
METRICS = (("verbmem_f", "verbmem", "forget"), ("knowmem_f", "knowmem", "forget"), ("knowmem_r", "knowmem", "retain"))
RUNS = [("npo", "gdr", "bf16"), ("npo", "gdr", "fp32"), ("ga", "klr", "bf16")]
WEIGHTS = [(layer, module) for layer in (0, 1, 2) for module in ("self_attn.q_proj", "mlp.up_proj")] + [(np.nan, "embed_tokens")]


def masks(label):
    """Rows of a run's mask: the upper half of its weights is trained."""
    shared = label | {"objective": label["method"], "saliency": "module", "percentile": 50.0, "threshold": 1e-3, "status": "ok"}
    norms = [1e-5 * 10**number for number in range(len(WEIGHTS))]
    return [
        shared | {"weight": f"{layer}.{module}", "layer": layer, "module": module, "norm": norm, "trained": float(norm >= 1e-3)}
        for norm, (layer, module) in zip(norms, WEIGHTS, strict=True)
    ]


def labels(runs, corpora, settings):
    """What names each run: target and retrain of each corpus, then `settings` learning rates of each of `runs`."""
    for corpus in corpora:
        named = [(method, "none", "", "") for method in tables.REFERENCES]
        named += [(*run, f"lr{k + 1}e-5_{run[2]}_ep5") for run in runs for k in range(settings)]
        for method, regularizer, weights, setting in named:
            label = {"run": f"{corpus}/{method}_{regularizer}/{setting}/seed0", "corpus": corpus, "method": method}
            label |= {"regularizer": regularizer, "weights": weights, "moments": weights, "setting": setting, "seed": "0"}
            yield label | {"lr": setting[2:6]}


def make(runs=RUNS, corpora=("people",), diverged=("ga",), schemes=SCHEMES, settings=1):
    """Synthetic tables by name, as figures read them."""
    generator = np.random.default_rng(0)
    rows, back, masked, moved, weighed, spent = [], [], [], [], [], []
    for label in labels(runs, corpora, settings):
        bad = label["method"] in diverged
        spent += [cost(label, scheme, bad) for scheme in schemes]
        if label["setting"]:
            masked += masks(label)
            weighed += weights_of(label, schemes, bad)
            moved += [] if bad else histograms(label["run"], schemes)
        for scheme, (metric, kind, split) in product(schemes, METRICS):
            row = label | {"scheme": scheme, "metric": metric, "kind": kind, "split": split, "interval": "samples"}
            rows.append(scored(row, generator.uniform(20, 90), bad))
            if split == "forget" and label["method"] not in tables.REFERENCES:
                back.append(recovered(row, generator.uniform(-0.5, 1), bad))
    return {
        "scores": tables.frame(rows, columns.SCORES),
        "recovery": tables.frame(back, columns.RECOVERY),
        "masks": pd.DataFrame(masked, columns=list(masks(label)[0])),
        "calibration_effect": tables.frame(list(calibrated(back)), columns.CALIBRATION_EFFECT),
        "moved": pd.DataFrame(moved, columns=columns.MOVED),
        "mechanism": pd.DataFrame(weighed, columns=columns.MECHANISM),
        "costs": pd.DataFrame(spent, columns=columns.COSTS),
        **predicted(back),
    }


def scored(row, value, bad):
    """A row of scores.csv: a value with an interval of 5 to either side, or none because the run diverged."""
    if bad:
        return row | {"status": "diverged", "reason": "diverged at step 7"}
    return row | {"status": "ok", "reason": "", "value": value, "low": value - 5, "high": value + 5, "n": 30}


def recovered(row, share, bad):
    """A row of recovery.csv, likewise."""
    if bad:
        reasons = {"R_reason": "diverged: the unlearned run (diverged at step 7)", "K_reason": "diverged"}
        return row | {"status": "diverged"} | reasons
    return row | {"status": "ok", "n": 30, "R": share, "R_low": share - 0.1, "R_high": share + 0.1, "K": 0.5}


def cost(label, scheme, bad):
    """A row of costs.csv: an hour of training, two of evaluation, 1 MB of checkpoint; a diverged run was trained only."""
    row = {name: label.get(name, "") for name in LABELS} | {"scheme": scheme, "device": "cpu", "train_hours": 1.0}
    return row if bad else row | {"evaluate_hours": 2.0, "checkpoint_bytes": 1e6, "model_bytes": 5e5}


def weights_of(label, schemes, bad):
    """Rows of mechanism.csv of a run; each scheme's innermost code ends at another weight, and fp32 weights of all sizes moved."""
    row = {name: label[name] for name in LABELS} | {"module": "all", "status": "diverged" if bad else "ok"}
    row |= {} if bad else {"changed": 0.5, "reach": 4.0 if label["weights"] == "fp32" else 0.125}
    return [row | {"scheme": scheme, "edge": 2.0**-i} for i, scheme in enumerate(() if bad else schemes)] or [row | {"scheme": ""}]


def histograms(run, schemes):
    """Rows of moved.csv of a run; a bin in the middle is empty."""
    whats = [("", "all"), ("", "moved"), ("", "steps"), *((scheme, "crossed") for scheme in schemes)]
    return [
        {"run": run, "scheme": scheme, "what": what, "log2": log2, "count": 10 * (i + 1)}
        for i, (scheme, what) in enumerate(whats)
        for log2 in (-4.0, -3.5, -2.5)
    ]


def predicted(back):
    """{"prediction", "prediction_fit"} as if every recovery had been predicted 10 points too high, one of them far beyond."""
    known = [row for row in back if row["scheme"] != "full" and "R" in row]
    rows = [
        row | {"left_out": split, "predictor": "weights", "predicted": 9.0 if i == 0 else row["R"] + 0.1}
        for split in ("method", "scheme")
        for i, row in enumerate(known)
    ]
    fits = [
        {"metric": metric, "kind": kind, "left_out": split, "predictor": "weights", "cells": 12.0}
        | {"R2": 0.5, "R2_low": -0.25, "R2_high": 0.75, "coverage": 0.85, "reason": ""}
        for metric, kind, _ in METRICS[:2]
        for split in ("method", "scheme")
    ]
    fits = fits if known else [dict.fromkeys(columns.FIT, "") | {"reason": "too few cells"}]
    return {"prediction": pd.DataFrame(rows, columns=columns.PREDICTION), "prediction_fit": pd.DataFrame(fits, columns=columns.FIT)}


def calibrated(back):
    """Rows of recovery as if the schemes but full precision differed in their calibration set alone."""
    for row in back:
        if row["scheme"] != "full":
            chosen = "generic" if row["scheme"] == "bnb_fp4" else "forget"
            more = {"family": "bnb_fp4", "calibration": chosen, "base": "generic"}
            if chosen == "forget" and "R" in row:
                more |= {"D": row["R"] / 2, "D_low": row["R"] / 2 - 0.1, "D_high": row["R"] / 2 + 0.1}
            yield row | more


def drawn(name, made):
    """A figure, laid out."""
    figure = registry.load("figures", name).draw(made)
    figure.draw_without_rendering()
    return figure


def words(figure):
    """All text that is shown; matplotlib keeps labels of ticks outside an axis's limits but does not draw them."""
    outside = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_major_ticks() + axis.get_minor_ticks()
            outside |= {t for tick in ticks if not low <= tick.get_loc() <= high for t in (tick.label1, tick.label2)}
        if not axes.get_visible():
            outside |= set(axes.findobj(Text))
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in outside]


def bars(axis, label):
    """(x, y) of the marks of an errorbar container with this label, sorted."""
    found = [c for c in axis.containers if c.get_label() == label]
    return sorted(zip(*(np.concatenate([c.lines[0].get_data()[i] for c in found]) for i in (0, 1)), strict=True)) if found else []


def values(made, **where):
    """Values of the rows of unlearned models, by method and weights."""
    table = made["scores"]
    table = table[~table.method.isin(tables.REFERENCES)]
    for column, value in where.items():
        table = table[table[column] == value]
    return table["value"].dropna().tolist()


MADE = {
    "usual": make(),
    "one run": make([("npo", "gdr", "bf16")], diverged=(), schemes=("full", "bnb_fp4")),
    "two corpora": make(corpora=("news", "books")),
    "hundreds": make(
        [(m, r, w) for m in ("npo", "ga", "tv") for r in ("gdr", "klr") for w in ("bf16", "fp32")], settings=9, diverged=()
    ),
    "no runs": make([]),
    "all diverged": make(diverged=("npo", "ga")),
    "references diverged": make(diverged=("target", "retrain")),
    "nothing": {
        "scores": tables.frame([], columns.SCORES),
        "recovery": tables.frame([], columns.RECOVERY),
        "calibration_effect": tables.frame([], columns.CALIBRATION_EFFECT),
    },
}
MADE["nothing"] |= {name: MADE["no runs"][name] for name in ("masks", "moved", "mechanism", "prediction")}
MADE["nothing"] |= {name: pd.DataFrame([], columns=MADE["no runs"][name].columns) for name in ("prediction_fit", "costs")}
