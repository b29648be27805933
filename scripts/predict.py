"""Predict each cell's recovery from what unlearning and quantization did to its weights, by fits that have not seen it.

A cell is a run under a scheme. What is predicted is R of recovery.csv, per forget metric; what it is predicted from are numbers
of mechanism.csv, which take no generated text. Two predictors have nothing to fit, two are regressions:

  1 − kept           kept: the share of the update that the whole model keeps in its own direction
  1 − first order    the same share, weighted by the gradient of the forget loss (where mechanism.gradient is on)
  weights            regression on the numbers of the weights alone
  gradient           regression on these and the gradient's

Cells are split four ways, and predictions are always for cells left out: one method left out, one scheme left out, one
setting (all its seeds) left out, one corpus (with its target) left out. Within the cells that a fit sees, the strength of its
penalty is chosen by cross-validation over settings. R² = 1 − Σ(R − R̂)²/Σ(R − mean R)² over the cells; calibration is the line R =
intercept + slope · R̂. Intervals are 95 % bootstrap intervals over runs (a run's schemes are drawn together), the predictions being
kept.

Only cells whose R is defined and known to within `--width` (length of its interval), and whose weights moved, are fitted and
scored; the others are counted. R is a ratio: of a run that hardly forgot, it says nothing.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from scripts.core import process
from scripts.core.analysis import columns, statistics, tables

KINDS = ("perplexity", "verbmem", "knowmem")
SPLITS = {name: f"one {name} left out" for name in ("method", "scheme", "setting", "corpus")}
GROUPS = {name: [name] for name in SPLITS} | {"setting": ["corpus", "method", "regularizer", "setting"]}
WEIGHTS = ["kept", "log_noise_ratio"]
PREDICTORS = {
    "1 − kept": ["kept"],
    "1 − first order": ["first_order"],
    "weights": WEIGHTS,
    "gradient": ["first_order", *WEIGHTS],
}  # columns that each of them reads
UNFITTED = ("1 − kept", "1 − first order")
WIDTH, FEWEST = 1.0, 20


def cells(recovery: pd.DataFrame, mechanism: pd.DataFrame) -> pd.DataFrame:
    """One row per run, scheme and forget metric, with R and the features; pooled seeds and full precision are left out."""
    chosen = recovery[recovery.kind.isin(KINDS) & (recovery.seed != tables.POOLED) & (recovery.scheme != "full")]
    chosen = chosen[chosen.split == "forget"].copy()
    if "checkpoint" in chosen:  # of a training, its end
        chosen = chosen[chosen.checkpoint == ""]
    chosen["R"] = pd.to_numeric(chosen.R)
    known = mechanism[(mechanism.module == "all") & (mechanism.status == "ok")] if len(mechanism) else mechanism
    known = known[["run", "scheme", "kept", "first_order", "noise_ratio"]].copy()
    for name in ("kept", "first_order", "noise_ratio"):
        known[name] = pd.to_numeric(known[name], errors="coerce")
    known["log_noise_ratio"] = np.log10(known.noise_ratio.clip(1e-6, 1e6))
    return chosen.merge(known, on=["run", "scheme"], how="inner")


def regression():
    """A ridge regression on all terms up to second order; its strength is chosen by cross-validation over groups.

    Few and smooth terms, because a scheme that was left out lies beyond those that were seen; trees and kernels end there.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    steps = [("scale", StandardScaler()), ("terms", PolynomialFeatures(2, include_bias=False)), ("line", Ridge())]
    strengths = {"line__alpha": [0.1, 1.0, 10.0, 100.0]}
    return GridSearchCV(Pipeline(steps), strengths, cv=GroupKFold(5), scoring="neg_mean_squared_error")


def settings(table: pd.DataFrame) -> np.ndarray:
    """A number per row that all seeds and schemes of a setting share."""
    return table.groupby(GROUPS["setting"]).ngroup().to_numpy()


def left_out(table: pd.DataFrame, predictor: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, half): predictions of every row by a fit without its group, and half the width that should hold 90 % of errors.

    The width is the 90 % quantile of absolute errors in a cross-validation over settings within the rows of the fit. Rows that
    can't be predicted (fewer than five other settings) are NaN.
    """
    from sklearn.base import clone
    from sklearn.model_selection import GroupKFold, cross_val_predict

    groups, own = table.groupby(GROUPS[split]).ngroup().to_numpy(), settings(table)
    predicted, half = np.full(len(table), np.nan), np.full(len(table), np.nan)
    x, y = table[PREDICTORS[predictor]].to_numpy(), table.R.to_numpy()
    if predictor in UNFITTED:
        predicted = 1 - x[:, 0]
    for group in np.unique(groups):
        test, train = groups == group, groups != group
        if len(np.unique(own[train])) < 5:
            continue
        if predictor in UNFITTED:
            errors = np.abs(y - predicted)[train]
        else:
            model = regression().fit(x[train], y[train], groups=own[train])
            predicted[test] = model.predict(x[test])
            best = clone(model.best_estimator_)
            inner = cross_val_predict(best, x[train], y[train], groups=own[train], cv=GroupKFold(5))
            errors = np.abs(y[train] - inner)
        half[test] = np.quantile(errors, 0.9)
    return predicted, half


def score(table: pd.DataFrame) -> dict:
    """R², calibration line, mean absolute error and coverage of a table with R, predicted and half, with intervals over runs."""
    measured, predicted, half = (table[name].to_numpy(dtype=float) for name in ("R", "predicted", "half"))
    runs = table.groupby("run", sort=True).ngroup().to_numpy()
    drawn = statistics.counts(runs.max() + 1, 3)[:, runs].astype(float)
    whole = numbers(measured, predicted, half, np.ones((1, len(table))))
    spread = numbers(measured, predicted, half, drawn)
    made = {}
    for name, values in whole.items():
        low, high = statistics.interval(spread[name])
        made |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
    return made


def numbers(measured, predicted, half, weight) -> dict[str, np.ndarray]:
    """Scores for each row of weights (resamples, cells); coverage is over the cells that have a width, NaN where none has."""
    total, banded = weight.sum(1), weight * np.isfinite(half)
    mean_y, mean_x = weight @ measured / total, weight @ predicted / total
    spread_y = weight @ measured**2 / total - mean_y**2
    spread_x = weight @ predicted**2 / total - mean_x**2
    both = weight @ (measured * predicted) / total - mean_x * mean_y
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(spread_x > 1e-12, both / spread_x, np.nan)
        r2 = np.where(spread_y > 1e-12, 1 - (weight @ (measured - predicted) ** 2 / total) / spread_y, np.nan)
        coverage = banded @ (np.abs(measured - predicted) <= half) / banded.sum(1)
    return {
        "R2": r2,
        "slope": slope,
        "intercept": mean_y - slope * mean_x,
        "error": weight @ np.abs(measured - predicted) / total,
        "coverage": coverage,
    }


def predict(recovery: pd.DataFrame, mechanism: pd.DataFrame, width: float = WIDTH) -> dict[str, list[dict]]:
    """{"prediction": one row per cell, metric, split and predictor; "fit": one row per metric, split and predictor}."""
    everything, made = cells(recovery, mechanism), {"prediction": [], "fit": []}
    kinds = everything.drop_duplicates("metric").set_index("metric").kind
    for metric in sorted(kinds.index, key=lambda metric: KINDS.index(kinds[metric])):
        of_metric = everything[everything.metric == metric]
        usable = of_metric.R.notna() & (of_metric.R_high - of_metric.R_low <= width)
        usable &= of_metric[WEIGHTS].notna().all(axis=1)  # of a run whose weights did not move there are no shares
        table = of_metric[usable].reset_index(drop=True)
        for split in SPLITS:
            for predictor in PREDICTORS:
                label = {"metric": metric, "kind": of_metric.kind.iloc[0], "left_out": split, "predictor": predictor}
                label |= {"cells": len(table), "runs": table.run.nunique(), "unused": len(of_metric) - len(table)}
                reason = unfit(table, split, predictor)
                if not reason:
                    predicted, half = left_out(table, predictor, split)
                    ready = table.assign(predicted=predicted, half=half, left_out=split, predictor=predictor)
                    ready = ready[ready.predicted.notna()]
                    reason = "" if len(ready) >= FEWEST else f"{len(ready)} cells could be predicted; it takes {FEWEST}"
                if reason:
                    made["fit"].append(label | {"reason": reason})
                    continue
                made["fit"].append(label | {"cells": len(ready), "runs": ready.run.nunique(), "reason": ""} | score(ready))
                made["prediction"] += ready[columns.PREDICTION].to_dict("records")
    return made


def unfit(table: pd.DataFrame, split: str, predictor: str) -> str:
    """Why there is no such prediction; empty if there is one."""
    if len(table) < FEWEST:
        return f"{len(table)} cells with a usable R; it takes {FEWEST}"
    if "first_order" in PREDICTORS[predictor] and table.first_order.isna().any():
        return "no gradient: mechanism.gradient is off"
    if table.groupby(GROUPS[split]).ngroups < 2:
        return f"one {split} only: nothing can be left out"
    return ""


def shown(fit: list[dict]) -> str:
    """The fits as lines of text."""
    lines = []
    for row in fit:
        head = f"{row['metric']:12} {SPLITS[row['left_out']]:22} {row['predictor']:16} {row['cells']:4} cells {row['runs']:3} runs"
        if row["reason"]:
            lines.append(f"{head}  {row['reason']}")
            continue
        parts = [f"{name} {row[name]:.2f} [{row[name + '_low']:.2f}, {row[name + '_high']:.2f}]" for name in columns.FITTED]
        lines.append(f"{head}  " + "  ".join(parts))
    return "\n".join(lines) or "no cells"


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.predict", description=__doc__.splitlines()[0])
    parser.add_argument("--tables", required=True, help="folder with recovery.csv and mechanism.csv")
    parser.add_argument("--out", help="folder of prediction.csv and prediction_fit.csv (default: the same)")
    parser.add_argument("--width", type=float, default=WIDTH, help=f"widest interval of R that is used (default {WIDTH})")
    options = parser.parse_args(argv)
    found = tables.read(options.tables, ("recovery", "mechanism"))
    made = predict(found["recovery"], found["mechanism"], options.width)
    out = Path(options.out or options.tables)
    tables.write(tables.plain(made["prediction"], columns.PREDICTION), out / "prediction.csv")
    tables.write(tables.plain(made["fit"], columns.FIT), out / "prediction_fit.csv")
    print(shown(made["fit"]))
    return 0


if __name__ == "__main__":
    process.tell(main)
