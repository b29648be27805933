"""The benchmark command on a tiny model: rows of every measure, ratios the right way round, failures that are seen."""

import sys
import types

import pytest

from benchmarks import __main__ as program
from benchmarks.harness import Context, Pairs, Row
from benchmarks.table import line


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
