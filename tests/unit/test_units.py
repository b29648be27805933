"""Intervals over units (people): against closed cases and brute force, and where files or corpora name none."""

import math

import numpy as np
import pytest

from scripts import aggregate as program
from scripts.core.analysis import statistics
from scripts.core.storage import read_json, write_json
from tests.unit.test_metrics import data, run  # noqa: F401


def spread(replicates):
    low, high = statistics.interval(replicates)
    return high - low


# the bootstrap


def test_copies_of_a_unit_add_nothing():
    """Closed case: m equal samples per unit. Over units it is the bootstrap of n values; over samples √m times as narrow."""
    values, m = np.random.default_rng(0).normal(size=40), 9
    copies, units = np.repeat(values, m), [f"person {i}" for i in range(40) for _ in range(m)]
    clustered = statistics.mean_replicates(copies, units=units)
    assert np.allclose(clustered, statistics.mean_replicates(values), atol=1e-12)
    assert spread(clustered) / spread(statistics.mean_replicates(copies)) == pytest.approx(math.sqrt(m), rel=0.1)


def test_a_unit_of_its_own_for_each_sample_changes_nothing():
    scores, weights = np.random.default_rng(1).random((2, 12))
    assert (statistics.mean_replicates(scores, units=range(12)) == statistics.mean_replicates(scores)).all()
    assert (statistics.mean_replicates(scores, weights, list("abcdefghijkl")) == statistics.mean_replicates(scores, weights)).all()


def test_replicates_are_means_over_the_units_drawn():
    """Units of unequal size and unequal weights, by loops."""
    generator = np.random.default_rng(2)
    units = ["b", "a", "b", "c", "b", "a", "d"]
    scores, weights = generator.random(7), generator.random(7)
    found = statistics.mean_replicates(scores, weights, units)
    for drawn, replicate in zip(statistics.counts(4)[:30], found, strict=False):
        times = dict(zip("bacd", drawn, strict=True))  # in the order in which units appear
        taken = [i for i, unit in enumerate(units) for _ in range(times[unit])]
        assert replicate == pytest.approx(np.average(scores[taken], weights=weights[taken]), abs=1e-12)


def test_auc_replicates_draw_units_on_both_sides():
    generator = np.random.default_rng(3)
    forget, holdout = generator.random(6), generator.random(5) + 0.2
    units = ["a", "b", "a", "c", "c", "c"], ["x", "y", "y", "x", "z"]
    found = statistics.auc_replicates(forget, holdout, units)
    for b in range(30):
        left = dict(zip("abc", statistics.counts(3, 0)[b], strict=True))
        right = dict(zip("xyz", statistics.counts(3, 1)[b], strict=True))
        taken = np.repeat(forget, [left[u] for u in units[0]]), np.repeat(holdout, [right[u] for u in units[1]])
        assert found[b] == pytest.approx(statistics.auc(*taken), abs=1e-12)
    alone = statistics.auc_replicates(forget, holdout, (range(6), range(5)))
    assert (alone == statistics.auc_replicates(forget, holdout)).all()


# the tables

LABELS = {"corpus": "c", "regularizer": "gdr", "split": "forget"}


def put(root, run_, scheme, scores, units=None, metric="knowmem_f", kind="knowmem"):
    samples = [{"rougeL": float(score)} for score in scores]
    for sample, unit in zip(samples, units or [], strict=False):
        sample |= {} if unit is None else {"unit": unit}
    made = {"metric": metric, "kind": kind, "status": "ok", "value": 100 * float(np.mean(scores)), "n": len(scores)}
    write_json(root / run_ / "eval" / scheme / f"{metric}.json", made | {"samples": samples})


def cells(run_, method, seed=0):
    return [
        LABELS | {"run": run_, "method": method, "seed": seed, "scheme": scheme, "metric": "knowmem_f", "kind": "knowmem"}
        for scheme in ("full", "q")
    ]


PEOPLE = [f"person {i}" for i in range(10) for _ in range(3)]


def sweep(root, units=PEOPLE, of_target=PEOPLE, seeds=1):
    """A target and runs of 30 answers that a person's share; returns the cells."""
    draw = np.random.default_rng(4)
    base = np.repeat(draw.random(10), 3)
    for scheme in ("full", "q"):
        put(root, "t", scheme, 0.9 + 0.1 * base, of_target)
    given = cells("t", "target")
    for seed in range(seeds):
        put(root, f"u/seed{seed}", "full", 0.1 + 0.3 * base, units)
        put(root, f"u/seed{seed}", "q", 0.3 + 0.5 * base + 0.01 * seed, units)
        given += cells(f"u/seed{seed}", "npo", seed)
    return given


def test_tables_say_what_was_drawn_and_n_stays(tmp_path):
    over_units = program.aggregate(sweep(tmp_path / "units"), tmp_path / "units")
    over_samples = program.aggregate(sweep(tmp_path / "samples", None, None), tmp_path / "samples")
    ours, old = over_units["scores"], over_samples["scores"]
    assert (ours.interval == "units").all() and (old.interval == "samples").all()
    assert (ours.n == 30).all() and (ours.units == 10).all() and "units" not in old
    assert (ours["value"] == old["value"]).all()
    wider = (ours.high - ours.low) / (old.high - old.low)
    assert wider.to_numpy() == pytest.approx(math.sqrt(3), rel=0.15), "three equal answers each"
    back = over_units["recovery"].query("scheme == 'q'").iloc[0]
    assert back.R == over_samples["recovery"].query("scheme == 'q'").iloc[0].R and back.units == 10
    assert set(old.columns) == set(ours.columns) - {"units"}


def test_ratios_and_seeds_are_paired_over_units(tmp_path):
    given = sweep(tmp_path, seeds=2)
    for scheme in ("full", "q"):  # a run that is the target again under q
        samples = read_json(tmp_path / f"t/eval/{scheme}/knowmem_f.json")["samples"]
        put(tmp_path, "u/seed0", scheme, [s["rougeL"] * (1 if scheme == "q" else 0.5) for s in samples], PEOPLE)
    made = program.aggregate(given, tmp_path)
    back = made["recovery"].query("scheme == 'q' and seed == '0'").iloc[0]
    assert (back.R, back.R_low, back.R_high) == pytest.approx((1, 1, 1)) and back.K_low == pytest.approx(back.K_high)
    pooled = made["scores"].query("seed == 'all' and scheme == 'q'").iloc[0]
    assert (pooled.interval, pooled.units, pooled.n) == ("seeds, then units", 10, 30) and pooled.low < pooled["value"]
    put(tmp_path, "u/seed1", "q", np.linspace(0, 1, 30), PEOPLE[::-1])
    apart = program.aggregate(given, tmp_path)["scores"].query("seed == 'all' and scheme == 'q'").iloc[0]
    assert np.isnan(apart.low) and apart.reason == "no interval: seeds have different units"


def test_a_file_with_and_one_without_units_are_not_paired(tmp_path):
    made = program.aggregate(sweep(tmp_path, of_target=None), tmp_path)
    assert made["scores"].low.notna().all() and set(made["scores"].interval) == {"units", "samples"}
    back = made["recovery"].query("scheme == 'q'").iloc[0]
    assert np.isnan(back.R) and np.isnan(back.K)
    assert back.R_reason == "undefined: the unlearned run and the target under q were scored on samples of different units"
    put(tmp_path, "t", "q", np.full(30, 0.9), PEOPLE)
    put(tmp_path, "u/seed0", "full", np.linspace(0, 0.2, 30))
    back = program.aggregate(sweep_cells(), tmp_path)["recovery"].query("scheme == 'q'").iloc[0]
    assert back.K > 0 and back.R_reason == "undefined: full precision was scored on samples of other units"


def sweep_cells():
    return cells("t", "target") + cells("u/seed0", "npo")


def test_samples_are_drawn_where_one_of_them_has_no_unit(tmp_path):
    made = program.aggregate(sweep(tmp_path, [*PEOPLE[:-1], None], None), tmp_path)
    assert (made["scores"].interval == "samples").all() and made["recovery"].R.notna().all()


def test_one_unit_has_no_interval(tmp_path):
    put(tmp_path, "t", "full", [0.1, 0.9], ["a", "a"])
    found = program.aggregate(cells("t", "target")[:1], tmp_path)["scores"].iloc[0]
    assert found["value"] == 50 and np.isnan(found.low) and found.reason == "no interval: one unit"
