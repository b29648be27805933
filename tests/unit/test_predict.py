"""Predictions are of cells that no fit has seen, and say what they are worth."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from scripts import predict
from scripts.core.analysis import columns, tables
from scripts.core.analysis.columns import LABELS


def sweep(recovered, methods=("ga", "npo"), settings=6, schemes=("full", "a", "b", "c"), gradient=True, corpora=("people",)):
    """(recovery, mechanism): R = recovered(name, kept, noise) of every run under every scheme; name: of the corpus where there are
    several, else of the method."""
    generator, back, weights = np.random.default_rng(0), [], []
    for corpus, method, number in product(corpora, methods, range(settings)):
        label = dict.fromkeys(LABELS, "") | {"corpus": corpus, "method": method, "regularizer": "gdr", "seed": "0"}
        label |= {"setting": f"s{number}", "run": f"{corpus}/{method}_gdr/s{number}/seed0"}
        for scheme in schemes:
            kept = 1.0 if scheme == "full" else generator.uniform()
            value = recovered(corpus if len(corpora) > 1 else method, kept, generator.normal())
            cell = label | {"scheme": scheme, "metric": "verbmem_f", "kind": "verbmem", "split": "forget", "status": "ok"}
            back.append(cell | {"R": value, "R_low": value - 0.1, "R_high": value + 0.1})
            facts = {"module": "all", "status": "ok", "kept": kept, "noise_ratio": 0.1}
            weights.append(label | facts | {"scheme": scheme, "first_order": kept if gradient else None})
    return tables.frame(back, columns.RECOVERY), pd.DataFrame(weights)


def fits(made):
    return {(row["left_out"], row["predictor"]): row for row in made["fit"]}


def test_a_relation_is_found_and_calibrated():
    line = sweep(lambda method, kept, noise: 1.3 * (1 - kept) - 0.2 + 0.02 * noise, corpora=("people", "news"))
    found = fits(predict.predict(*line))
    for split in predict.SPLITS:
        assert found[split, "weights"]["R2"] > 0.98 and found[split, "weights"]["cells"] == 72
        assert found[split, "weights"]["slope"] == pytest.approx(1, abs=0.05)
        assert found[split, "weights"]["R2_low"] < found[split, "weights"]["R2"] < found[split, "weights"]["R2_high"]
        assert found[split, "1 − kept"]["slope"] == pytest.approx(1.3, abs=0.05)
        assert 0.6 < found[split, "weights"]["coverage"] <= 1


def test_noise_is_not_predicted():
    found = fits(predict.predict(*sweep(lambda method, kept, noise: noise)))
    assert max(row["R2"] for row in found.values() if not row["reason"]) < 0.1


def test_what_is_left_out_is_not_seen():
    """A method that behaves the other way round can't be predicted from the other; from its own other settings it can."""
    found = fits(predict.predict(*sweep(lambda method, kept, noise: kept if method == "ga" else 1 - kept)))
    assert found["method", "weights"]["R2"] < -1
    alone = fits(predict.predict(*sweep(lambda method, kept, noise: kept, methods=("ga",), settings=9)))
    assert alone["setting", "weights"]["R2"] > 0.95
    assert alone["method", "weights"]["reason"] == "one method only: nothing can be left out"
    assert alone["corpus", "weights"]["reason"] == "one corpus only: nothing can be left out"
    other = fits(predict.predict(*sweep(lambda corpus, kept, noise: kept if corpus == "a" else 1 - kept, corpora=("a", "b"))))
    assert other["corpus", "weights"]["R2"] < -1


def test_without_a_width_there_is_no_coverage():
    """Four other settings are too few to tell how wide errors are: coverage is then unknown, which is not 0."""
    found = fits(predict.predict(*sweep(lambda method, kept, noise: 1 - kept, settings=4)))
    assert found["method", "1 − kept"]["R2"] == 1 and np.isnan(found["method", "1 − kept"]["coverage"])
    assert np.isnan(found["method", "1 − kept"]["coverage_low"]) and found["setting", "1 − kept"]["coverage"] == 1


def test_cells_without_a_usable_recovery_are_counted_and_too_few_are_said(tmp_path, capsys):
    recovery, mechanism = sweep(lambda method, kept, noise: 1 - kept, gradient=False)
    recovery.loc[recovery.index[1], "R_high"] = 9.0
    recovery.loc[recovery.index[2], "R"] = np.nan
    found = fits(predict.predict(recovery, mechanism))
    assert found["method", "weights"]["cells"] == 34 and found["method", "weights"]["unused"] == 2
    assert found["method", "gradient"]["reason"] == "no gradient: mechanism.gradient is off"
    still = mechanism.assign(**{name: mechanism[name].where(mechanism.run != mechanism.run[9]) for name in ("kept", "noise_ratio")})
    found = fits(predict.predict(recovery, still))  # a run whose weights did not move at all
    assert found["method", "weights"]["cells"] == 31 and found["method", "weights"]["unused"] == 5
    tables.write(recovery.head(8), tmp_path / "recovery.csv")
    tables.write(mechanism.reindex(columns=columns.MECHANISM), tmp_path / "mechanism.csv")
    assert predict.main(["--tables", str(tmp_path)]) == 0
    assert "it takes 20" in capsys.readouterr().out
    read = tables.read(tmp_path, ["prediction", "prediction_fit"])
    assert read["prediction"].empty and len(read["prediction_fit"]) == len(predict.SPLITS) * len(predict.PREDICTORS)
