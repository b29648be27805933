"""The benchmark command on a tiny model: rows of every measure, ratios the right way round, failures that are seen."""

import os
import sys
import types

import pytest

from benchmarks import __main__ as program
from benchmarks import overhead
from benchmarks.harness import Context, Pairs, Row
from benchmarks.table import line
from scripts.core import storage


def test_ratios_say_how_much_less_ours_costs():
    timed = Row.timed("work", Pairs([4.0, 6.0, 9.0], [2.0, 2.0, 1.0]))
    assert (timed.baseline, timed.ours, timed.ratio, timed.low, timed.high, timed.pairs) == (6.0, 2.0, 3.0, 2.0, 9.0, 3)
    assert Row("memory", 100.0, 50.0, "MiB").ratio == 2.0
    assert Row("speed", 100.0, 50.0, "tokens/s", more_is_better=True).ratio == 0.5
    assert line(timed) == "| work | 6 s | 2 s | 3.00× | 2.00–9.00 |"


def test_pairs_are_run_in_turn(tmp_path):
    calls = []
    pairs = Context("tiny", "cpu", tmp_path, 3).pairs(lambda: calls.append("a"), lambda: calls.append("b"))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab" and len(pairs.ratios) == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


ROWS = {
    "evaluation": ("VerbMem", "KnowMem", "PrivLeak", "all metrics of an evaluation"),
    "training": ("training step, NPO+KLR, fp32 (equal losses)", "training step, NPO+KLR, bf16", "peak memory of tensors, GA+GDR"),
    "throughput": ("matrix product", "trained tokens, NPO+GDR", "MFU, NPO+KLR"),
    "methods": ("npo |", "rmu |", "ga+klr |"),
    "store": ("checkpoint, NPO+GDR of 4 steps, bf16", "reading it, NPO+GDR of 4 steps, fp32"),
    "dry_run": ("dry run of 24 cells, baseline with the same jobs and files |", "dry run of 24 cells, baseline with as many jobs"),
    "precision": ("training step, GA+GDR, weights fp32, moments bf16", "peak memory of tensors, NPO+KLR, weights bf16_stochastic"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_measure_gives_its_rows_and_both_sides_agree(folder, name, capsys):
    out = folder / f"{name}.md"
    assert program.main(["--size", "tiny", "--pairs", "1", "--only", name, "--folder", str(folder), "--out", str(out)]) == 0
    text = out.read_text()
    for row in ROWS[name]:
        assert f"| {row}" in text


def test_a_failure_is_shown_and_an_unknown_name_is_one_line(tmp_path, monkeypatch, capsys):
    def run(context):
        yield Row("first", 2.0, 1.0)
        raise AssertionError("scores differ")

    module = types.ModuleType("benchmarks.measures.broken", "About.")
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(program, "names", lambda: ["broken"])
    out = tmp_path / "bench.md"
    assert program.main(["--size", "tiny", "--out", str(out)]) == 1
    text = out.read_text()
    assert "| first | 2 s | 1 s | 2.00× |" in text and "**broken failed**: AssertionError: scores differ" in text
    assert program.main(["--only", "brokn"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "brokn" in error and "broken" in error


@pytest.mark.parametrize("name", program.names())
def test_every_measure_keeps_the_contract(name):
    module = program.load([name], "demo") or program.load([name], "1b")
    assert module and module[0].__doc__.splitlines()[0].endswith(".") and callable(module[0].run)


def test_a_sweeps_overhead_is_what_its_jobs_do_beside_work(tmp_path, capsys):
    """Two jobs of 40 s side by side, then one of 20 s after a pause: of 60 s on 2 cores, work are 30 + 16 + 10 s."""
    run = tmp_path / "c/ga_none/x/seed0"
    benchmarks = {"c/target": (40, 1040), "c/ga_none/x/seed0/unlearn": (40, 1040), "c/ga_none/x/seed0/evaluate_full": (20, 2020)}
    for name, (seconds, end) in benchmarks.items():
        path = tmp_path / "benchmarks" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\n{seconds}\t-\n")
        os.utime(path, (end, end))
    storage.write_json(tmp_path / "c/target/run.json", {"work_seconds": 30.0})
    storage.write_json(run / "run.json", {"work_seconds": 16.0})
    for metric in ("a", "b"):
        storage.write_json(run / "eval/full" / f"{metric}.json", {"provenance": {"work_seconds": 5.0}})
    found = overhead.jobs(tmp_path)
    told = overhead.account(found, overhead.running(found), 2)
    assert told["wall"] == 60 and told["overhead"] == pytest.approx(1 - 56 / 120)
    assert told["kinds"]["training"] == {"jobs": 2, "busy": 80, "work": 46} and told["kinds"]["evaluation"]["work"] == 10
    assert "60 s on 2 cores; (wall − work) / wall = 53.3 %" in overhead.table(told, 2)
    for path in (tmp_path / "benchmarks").rglob("*.tsv"):
        os.utime(path, (1040, 1040))  # a copy without its dates
    assert overhead.main([str(tmp_path), "--cores", "1"]) == 2 and "100 core-seconds in 40;" in capsys.readouterr().err
    storage.write_json(run / "run.json", {})
    assert overhead.main([str(tmp_path)]) == 2 and "run.json: has no work_seconds" in capsys.readouterr().err
