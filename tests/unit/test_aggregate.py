"""Tables from metric files: hand values, brute-force intervals, and cells without a score that never become 0."""

import json
import time

import numpy as np
import pandas as pd
import pytest

from scripts import aggregate as program
from scripts import summary
from scripts.core.analysis import statistics, tables
from scripts.core.storage import write_json

SCHEMES = ("full", "bnb_nf4")
RUN = "people/npo_gdr/lr3e-5_bf16_ep5_a1"
LABELS = {"corpus": "people", "method": "npo", "regularizer": "gdr", "lr": "3e-5", "weights": "bf16", "moments": "bf16"}
LABELS |= {"setting": "lr3e-5_bf16_ep5_a1", "axes": {"epochs": 5, "alpha": 1.0}}
METRICS = {"verbmem_f": "verbmem", "knowmem_f": "knowmem", "knowmem_r": "knowmem", "privleak": "privleak"}


def cells(run, scheme_names=SCHEMES, metrics=("verbmem_f",), seed=0, **labels):
    """Rows of the table of cells for one run."""
    base = LABELS | {"run": run, "seed": seed} | labels
    return [base | {"scheme": s, "metric": m, "kind": METRICS[m]} for s in scheme_names for m in metrics]


def reference(name, **more):
    """Rows of a target or retrain run."""
    empty = {"method": name, "regularizer": "none", "lr": "", "weights": "", "moments": "", "setting": "", "axes": {}}
    return cells(f"people/{name}", **(empty | more))


def put(root, run, scheme, scores=None, metric="verbmem_f", **content):
    """Write a metric file; `scores` are per-sample ROUGE-L."""
    made = {"metric": metric, "kind": METRICS[metric], "version": 1, "status": "ok", "provenance": {}}
    if scores is not None:
        made |= {"value": 100 * float(np.mean(scores)), "n": len(scores), "samples": [{"rougeL": float(s)} for s in scores]}
    write_json(root / run / "eval" / scheme / f"{metric}.json", made | content)


def row(table, **where):
    """The only row with these values."""
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]


@pytest.fixture
def sweep(tmp_path):
    """Target, one run with scores under two schemes, and their arrays."""
    generator = np.random.default_rng(0)
    arrays = {
        ("people/target", "full"): generator.uniform(0.9, 1, 30),
        ("people/target", "bnb_nf4"): generator.uniform(0.8, 1, 30),
        (f"{RUN}/seed0", "full"): generator.uniform(0.2, 0.6, 30),
        (f"{RUN}/seed0", "bnb_nf4"): generator.uniform(0.5, 0.9, 30),
    }
    for (run, scheme), scores in arrays.items():
        put(tmp_path, run, scheme, scores, bits_per_weight=4.5)
    return tmp_path, arrays


def test_scores_have_value_interval_and_labels(sweep):
    root, arrays = sweep
    found = row(program.aggregate(reference("target") + cells(f"{RUN}/seed0"), root)["scores"], run=f"{RUN}/seed0", scheme="full")
    scores = arrays[f"{RUN}/seed0", "full"]
    drawn = [100 * np.repeat(scores, times).mean() for times in statistics.counts(30)]
    assert found["value"] == pytest.approx(100 * scores.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    assert (found.n, found.status, found.reason, found.interval, found.split) == (30, "ok", "", "samples", "forget")
    assert (found.bits_per_weight, found.lr, found.seed, found.epochs, found.alpha) == (4.5, "3e-5", "0", 5, 1.0)


def test_recovery_and_retained_knowledge_by_hand(sweep):
    root, arrays = sweep
    table = program.aggregate(reference("target") + cells(f"{RUN}/seed0"), root)["recovery"]
    found = row(table, scheme="bnb_nf4")
    u, full, target = arrays[f"{RUN}/seed0", "bnb_nf4"], arrays[f"{RUN}/seed0", "full"], arrays["people/target", "bnb_nf4"]
    assert pytest.approx(u.mean() / target.mean()) == found.K
    assert pytest.approx((u.mean() - full.mean()) / (target.mean() - full.mean())) == found.R
    ratios = []
    for times in statistics.counts(30):  # the same questions for all three
        a, b, c = (np.repeat(scores, times).mean() for scores in (u, full, target))
        ratios.append((a - b) / (c - b))
    assert (found.R_low, found.R_high) == pytest.approx(tuple(np.percentile(ratios, [2.5, 97.5])))
    full_row = row(table, scheme="full")
    assert (full_row.R, full_row.R_low, full_row.R_high) == (0, 0, 0)
    assert len(table) == 2 and set(table.method) == {"npo"}


def test_cells_without_a_score_are_empty_with_a_reason(sweep):
    root, _ = sweep
    put(root, "people/a/x/seed0", "full", status="diverged", value=None, reason="diverged at step 7", n=0, samples=[])
    put(root, "people/b/x/seed0", "full", status="not finite", value=None, reason="logits are not finite", n=0, samples=[])
    (root / "people/c/x/seed0/eval/full").mkdir(parents=True)
    (root / "people/c/x/seed0/eval/full/verbmem_f.json").write_text('{"value": 1')
    put(root, "people/d/x/seed0", "full", value=None, n=0, samples=[])
    put(root, "people/e/x/seed0", "full", status="diverged", value=None)
    write_json(root / "people/e/x/seed0/outcome.json", {"status": "diverged", "step": 3})
    put(root, "people/h/x/seed0", "full")
    (root / "people/h/x/seed0/eval/full/verbmem_f.json").write_text("[1, 2]")
    log = root / "logs/people/g/x/seed0/unlearn.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "  0%|  | 0/9\r 11%|# | 1/9\nTraceback (most recent call last):\nOutOfMemoryError: CUDA out of memory\n 11%|# | 1/9\n"
    )
    given = reference("target") + [c for name in "abcdefgh" for c in cells(f"people/{name}/x/seed0", setting=name)]
    made = program.aggregate(given, root)
    table, back = made["scores"], made["recovery"]
    ours = table[table.method == "npo"]
    assert ours["value"].isna().all() and ours.low.isna().all() and (ours.status != "ok").all() and (ours.reason != "").all()
    states = {name: row(ours, setting=name, scheme="full")[["status", "reason"]].tolist() for name in "abcdefgh"}
    assert states["a"] == ["diverged", "diverged at step 7"]
    assert states["b"] == ["not finite", "logits are not finite"]
    assert states["c"][0] == "missing" and "not readable as JSON" in states["c"][1]
    assert states["d"] == ["not finite", "value is None"]
    assert states["e"] == ["diverged", "diverged at step 3"]
    assert states["f"] == ["missing", "no people/f/x/seed0/eval/full/verbmem_f.json"]
    assert states["h"][0] == "missing" and "verbmem_f.json is no metric file" in states["h"][1]
    assert states["g"] == ["missing", "unlearn did not finish; its log ends: OutOfMemoryError: CUDA out of memory"]
    assert back.K.isna().all() and back.R.isna().all() and (back.K_reason != "").all() and (back.R_reason != "").all()
    assert row(back, setting="a", scheme="full").R_reason.startswith("diverged: the unlearned run")


def test_ratios_that_mean_nothing_are_empty(sweep):
    root, arrays = sweep
    put(root, f"{RUN}/seed0", "full", arrays["people/target", "full"])  # nothing was forgotten
    put(root, "people/target", "bnb_nf4", np.zeros(30))
    table = program.aggregate(reference("target") + cells(f"{RUN}/seed0"), root)["recovery"]
    broken = row(table, scheme="bnb_nf4")
    assert np.isnan(broken.K) and broken.K_reason == "undefined: the target's score is 0.0, not positive"
    assert np.isnan(broken.R) and broken.R_reason.startswith("undefined: target under the scheme minus")
    assert np.isnan(row(table, scheme="full").R)
    without = program.aggregate(cells(f"{RUN}/seed0"), root)["recovery"]
    assert set(without.K_reason) == {f"missing: the target under {s} is not in the sweep" for s in SCHEMES}


def test_a_value_that_is_no_mean_of_samples_gets_no_interval(tmp_path):
    put(tmp_path, "people/target", "full", [0.1, 0.2], value=44.0)
    found = row(program.aggregate(reference("target", scheme_names=["full"]), tmp_path)["scores"], scheme="full")
    assert found["value"] == 44 and np.isnan(found.low) and found.reason.startswith("no interval")


def texts(root, run, scheme, forget, holdout):
    """Write a PrivLeak file."""
    samples = {"forget": {"Min-40%": list(forget)}, "holdout": {"Min-40%": list(holdout)}}
    content = {"samples": samples, "value": 100 * statistics.auc(forget, holdout), "n": len(forget)}
    put(root, run, scheme, metric="privleak", **content)


def test_privleak_is_relative_to_the_retrain_run_at_full_precision(tmp_path):
    generator = np.random.default_rng(3)
    ours, theirs = (
        (generator.normal(1, 1, 12), generator.normal(3, 1, 10)),
        (generator.normal(2, 1, 12), generator.normal(2, 1, 10)),
    )
    texts(tmp_path, f"{RUN}/seed0", "full", *ours)
    texts(tmp_path, f"{RUN}/seed0", "bnb_nf4", ours[0][:5], ours[1])
    texts(tmp_path, "people/retrain", "full", *theirs)
    given = cells(f"{RUN}/seed0", metrics=["privleak"]) + reference("retrain", metrics=["privleak"])
    table = program.aggregate(given, tmp_path)["scores"]
    found = row(table, method="npo", scheme="full")
    assert found["value"] == pytest.approx(100 * (statistics.auc(*ours) / statistics.auc(*theirs) - 1))
    left, right = statistics.counts(12, 0), statistics.counts(10, 1)
    drawn = []
    for a, b in zip(left, right, strict=True):
        one, two = (statistics.auc(np.repeat(f, a), np.repeat(h, b)) for f, h in (ours, theirs))
        drawn.append(100 * (one / two - 1))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    reference_row = row(table, method="retrain", scheme="full")
    assert (reference_row["value"], reference_row.low, reference_row.high) == (0, 0, 0)
    other = row(table, method="npo", scheme="bnb_nf4")
    assert np.isnan(other["value"]) and other.reason == "PrivLeak: the retrain run was scored on other texts"
    alone = row(program.aggregate(cells(f"{RUN}/seed0", metrics=["privleak"]), tmp_path)["scores"], scheme="full")
    assert np.isnan(alone["value"]) and alone.status == "missing" and "retrain run at full precision: not there" in alone.reason


@pytest.mark.parametrize(
    "theirs, units, status, reason",
    [
        (([0.0] * 4, [1.0] * 4), "abcd", "not finite", "AUC(retrain)"),
        (([1.0] * 4, [1.0] * 4), "abce", "missing", "PrivLeak: the retrain run was scored on other texts"),
    ],
    ids=["an AUC of zero", "other people"],
)
def test_privleak_that_has_nothing_to_be_relative_to(tmp_path, theirs, units, status, reason):
    for run, scores, names in ((f"{RUN}/seed0", ([1.0] * 4, [2.0] * 4), "abcd"), ("people/retrain", theirs, units)):
        parts = zip(("forget", "holdout"), scores, (names, "wxyz"), strict=True)
        samples = {part: {"Min-40%": own, "unit": list(who)} for part, own, who in parts}
        put(tmp_path, run, "full", metric="privleak", samples=samples, value=50.0, n=4)
    given = cells(f"{RUN}/seed0", ["full"], ["privleak"]) + reference("retrain", scheme_names=["full"], metrics=["privleak"])
    found = row(program.aggregate(given, tmp_path)["scores"], method="npo")
    assert np.isnan(found["value"]) and found.status == status and reason in found.reason


@pytest.mark.parametrize("units", [(["a"] * 8, list("bcdefghi")), (list("bcdefghi"), ["a"] * 8), None])
def test_privleak_of_one_unit_or_text_has_no_interval(tmp_path, units):
    """What was drawn once could not fall otherwise: an interval of width 0, or of the other texts alone, would say too little."""
    generator = np.random.default_rng(3)
    for run, shift in (("people/retrain", 0), (f"{RUN}/seed0", -1)):
        forget, holdout = generator.normal(shift, 1, 8 if units else 1), generator.normal(0, 1, 8)
        samples = {part: {"Min-40%": list(own)} for part, own in (("forget", forget), ("holdout", holdout))}
        for part, own in zip(samples, units or (), strict=False):
            samples[part]["unit"] = own
        put(tmp_path, run, "full", metric="privleak", samples=samples, value=50.0, n=len(forget))
    given = cells(f"{RUN}/seed0", ["full"], ["privleak"]) + reference("retrain", scheme_names=["full"], metrics=["privleak"])
    found = row(program.aggregate(given, tmp_path)["scores"], method="npo")
    assert np.isfinite(found["value"]) and np.isnan(found.low) and np.isnan(found.high) and found.interval == ""
    assert found.reason == f"no interval: one {'unit' if units else 'sample'} of forget or of holdout texts"


def test_seeds_are_pooled_and_absent_ones_named(tmp_path):
    generator = np.random.default_rng(4)
    arrays = {(k, s): generator.uniform(0.2 + 0.1 * k, 0.6, 25) for k in range(3) for s in SCHEMES}
    target = {s: generator.uniform(0.8, 1, 25) for s in SCHEMES}
    for scheme in SCHEMES:
        put(tmp_path, "people/target", scheme, target[scheme])
        for k in range(3):
            put(tmp_path, f"{RUN}/seed{k}", scheme, arrays[k, scheme])
    given = reference("target") + [c for k in range(4) for c in cells(f"{RUN}/seed{k}", seed=k)]
    made = program.aggregate(given, tmp_path)
    found = row(made["scores"], seed="all", scheme="bnb_nf4")
    assert found["value"] == pytest.approx(100 * np.mean([arrays[k, "bnb_nf4"].mean() for k in range(3)]))
    assert (found.interval, found.seeds, found.run) == ("seeds, then samples", 3, f"{RUN}/all")
    assert found.reason == f"seed 3: no {RUN}/seed3/eval/bnb_nf4/verbmem_f.json"
    back = row(made["recovery"], seed="all", scheme="bnb_nf4")
    u, full = (np.array([arrays[k, s] for k in range(3)]) for s in ("bnb_nf4", "full"))
    assert pytest.approx((u.mean() - full.mean()) / (target["bnb_nf4"].mean() - full.mean())) == back.R
    ratios = []
    for times, seeds in zip(statistics.counts(25), statistics.counts(3, 2), strict=True):
        a, b = (np.mean([np.repeat(scores[k], times).mean() for k in np.repeat(range(3), seeds)]) for scores in (u, full))
        ratios.append((a - b) / (np.repeat(target["bnb_nf4"], times).mean() - b))
    assert (back.R_low, back.R_high) == pytest.approx(tuple(np.percentile(ratios, [2.5, 97.5])))
    # cells() prefers the pool, and single runs that have none
    chosen = tables.cells(made["scores"])
    assert list(chosen.seed) == ["0", "0", "all", "all"]


def test_command_writes_tables_that_read_back(sweep, capsys):
    root, _ = sweep
    write_json(root / "cells.json", reference("target") + cells(f"{RUN}/seed0"))
    arguments = ["--cells", str(root / "cells.json"), "--results", str(root), "--out", str(root)]
    assert program.main(arguments) == 0
    first = {name: (root / name).read_bytes() for name in ("scores.parquet", "scores.csv", "recovery.csv")}
    program.main(arguments)
    assert first == {name: (root / name).read_bytes() for name in first}, "the same cells give the same bytes"
    assert not list(root.glob(".*partial"))
    read = tables.read(root)
    parquet = pd.read_parquet(root / "scores.parquet")
    assert np.allclose(read["scores"]["value"], parquet["value"]) and list(read["scores"].columns) == list(parquet.columns)
    assert list(read["scores"].lr) == ["", "", "3e-5", "3e-5"] and set(read["scores"].seed) == {"0"}
    printed = "\n".join(summary.lines(read["scores"], read["recovery"]))
    line = next(line for line in printed.splitlines() if "npo_gdr bf16" in line and "bnb_nf4" in line)
    assert f"{read['scores']['value'].iloc[3]:.1f}" in line and f"{100 * read['recovery'].R.iloc[1]:.0f} % [" in line
    capsys.readouterr()
    assert summary.main(["--tables", str(root), "--report", str(root / "report.html")]) == 0
    assert "report.html was not made" in capsys.readouterr().out


def test_wrong_input_is_one_line(tmp_path, capsys):
    for content, words in (([{"run": 3}], "cells[0].run: 3 is not allowed"), ({}, "cells: dict"), ([7], "cells[0].run: 7")):
        (tmp_path / "cells.json").write_text(json.dumps(content))
        where = ["--cells", str(tmp_path / "cells.json"), "--results", str(tmp_path), "--out", str(tmp_path)]
        assert program.main(where) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    with pytest.raises(ValueError, match="allowed: a folder of results"):
        tables.read(tmp_path)
    assert not list(tmp_path.glob("scores*"))


def test_an_axis_named_like_a_column_keeps_its_own(tmp_path):
    given = [cell | {"axes": {"n": 5, "layers": [1, 2]}} for cell in cells(f"{RUN}/seed0")]
    table = program.aggregate(given, tmp_path)["scores"]
    assert set(table.axis_n) == {5} and set(table.layers) == {"[1, 2]"} and table.n.isna().all()


def test_a_thousand_cells_take_seconds(tmp_path):
    scores = np.random.default_rng(5).random(100)
    given = []
    for k in range(250):
        given += cells(f"people/npo_gdr/s{k}/seed0", ["full", "a", "b", "c"], setting=f"s{k}")
        for scheme in ("full", "a", "b", "c"):
            put(tmp_path, f"people/npo_gdr/s{k}/seed0", scheme, scores)
    began = time.process_time()
    made = program.aggregate(given, tmp_path)
    assert len(made["scores"]) == 1000 and (made["scores"].status == "ok").all()
    assert time.process_time() - began < 20
