"""The numbers that say what a prediction is worth, against numpy's own, and the cells that they are of."""

import numpy as np
import pandas as pd
import pytest

from scripts import predict
from scripts.core.analysis import columns, statistics, tables
from scripts.core.analysis.columns import LABELS


def test_scores_are_those_of_a_straight_line():
    draw = np.random.default_rng(0)
    x = draw.random(40)
    y = 0.3 + 1.7 * x + 0.1 * draw.normal(size=40)
    half = np.where(np.arange(40) < 30, 0.65, np.nan)
    table = pd.DataFrame({"run": [f"r{i // 4}" for i in range(40)], "R": y, "predicted": x, "half": half})
    found = predict.score(table)
    slope, intercept = np.polyfit(x, y, 1)
    assert (found["slope"], found["intercept"]) == pytest.approx((slope, intercept))
    assert found["R2"] == pytest.approx(1 - ((y - x) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert found["error"] == pytest.approx(np.abs(y - x).mean())
    assert found["coverage"] == pytest.approx((np.abs(y - x) <= half)[:30].mean()) and 0.2 < found["coverage"] < 0.8
    errors = [np.abs(y - x)[np.repeat(np.arange(40), np.repeat(drawn, 4))].mean() for drawn in statistics.counts(10, 3)]
    assert (found["error_low"], found["error_high"]) == pytest.approx(tuple(np.percentile(errors, [2.5, 97.5]))), "runs are drawn"


def test_a_line_through_equal_values_is_none():
    table = pd.DataFrame({"run": ["a", "a", "b"], "R": [0.5] * 3, "predicted": [0.2] * 3, "half": [0.1] * 3})
    found = predict.score(table)
    assert np.isnan(found["R2"]) and np.isnan(found["slope"]) and found["error"] == pytest.approx(0.3) and found["coverage"] == 0


def test_the_width_is_of_the_errors_of_other_groups():
    draw = np.random.default_rng(1)
    label = dict.fromkeys(["corpus", "regularizer"], "x")
    table = pd.DataFrame([label | {"method": m, "setting": f"s{i}"} for m in ("ga", "npo") for i in range(8)])
    table = table.assign(kept=draw.random(16), R=draw.random(16))
    predicted, half = predict.left_out(table, "1 − kept", "method")
    errors = np.abs(table.R - (1 - table.kept)).to_numpy()
    assert predicted.tolist() == (1 - table.kept).tolist()
    assert half[:8] == pytest.approx(np.quantile(errors[8:], 0.9)) and half[8:] == pytest.approx(np.quantile(errors[:8], 0.9))


def test_cells_are_single_runs_at_their_end_under_quantization_with_the_numbers_of_all_matrices():
    cell = dict.fromkeys(LABELS, "") | {"run": "r", "seed": "0", "checkpoint": "", "scheme": "q", "kind": "verbmem"}
    cell |= {"metric": "verbmem_f", "split": "forget", "R": 0.4, "R_low": 0.3, "R_high": 0.5}
    others = [{"seed": "all"}, {"checkpoint": "step10"}, {"scheme": "full"}, {"split": "retain"}, {"kind": "fluency"}, {"run": "s"}]
    recovery = pd.DataFrame([cell, *(cell | other for other in others)])
    facts = {"run": "r", "scheme": "q", "module": "all", "status": "ok", "kept": 0.25, "first_order": 0.5, "noise_ratio": 1e-3}
    apart = [{"module": "q_proj", "kept": 0.9}, {"run": "s", "status": "diverged"}, {"scheme": "full"}]
    found = predict.cells(recovery, pd.DataFrame([facts, *(facts | other for other in apart)]))
    assert len(found) == 1
    assert found[["R", "kept", "first_order", "log_noise_ratio"]].iloc[0].tolist() == [0.4, 0.25, 0.5, -3]


def test_the_program_says_each_fit_in_a_line_and_writes_where_it_is_told(tmp_path, monkeypatch, capsys):
    row = {"metric": "verbmem_f", "kind": "verbmem", "left_out": "method", "predictor": "weights", "cells": 72, "runs": 24}
    row |= {name + end: value for name in columns.FITTED for end, value in (("", 0.5), ("_low", 0.25), ("_high", 0.75))}
    fit, asked = [row | {"reason": ""}, row | {"predictor": "gradient", "reason": "no gradient"}], []
    monkeypatch.setattr(tables, "read", lambda folder, names: dict.fromkeys(names, folder))
    monkeypatch.setattr(predict, "predict", lambda *given: asked.append(given) or {"prediction": [], "fit": fit})
    for more, place in (([], "tables"), (["--out", str(tmp_path / "out"), "--width", "0.3"], "out")):
        assert predict.main(["--tables", str(tmp_path / "tables"), *more]) == 0
        assert {path.name for path in (tmp_path / place).iterdir()} == {"prediction.csv", "prediction_fit.csv"}
        assert pd.read_csv(tmp_path / place / "prediction_fit.csv").predictor.tolist() == ["weights", "gradient"]
    assert asked == [(str(tmp_path / "tables"),) * 2 + (width,) for width in (1.0, 0.3)]
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.split("  ")[0].strip() == "verbmem_f" and "one method left out" in first and "72 cells  24 runs" in first
    assert "  R2 0.50 [0.25, 0.75]  slope 0.50 [0.25, 0.75]" in first and second.endswith("24 runs  no gradient")
    assert predict.shown([]) == "no cells"
