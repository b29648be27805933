"""Tables that another version wrote: what they lack is empty, or one line says which file lacks what and how it is made anew."""

from types import SimpleNamespace

import pytest
from figure_tables import MADE

from scripts import alike, draw, pages, paper_tables, predict, schemes, summary
from scripts.core.analysis import tables
from scripts.figures import recovery_heatmap


def write(folder, drop, name: str = "scores") -> None:
    """The tables of a sweep, one of them without a column or several; the target knows everything."""
    for other, table in MADE["one run"].items():
        if other == "scores":
            table = table.assign(value=table.value.where(table.method != "target", 100.0))
        tables.write(table.drop(columns=drop) if other == name else table, folder / f"{other}.csv")


def readers(folder) -> dict:
    """Every program that reads tables, by name."""
    read, out = ["--tables", str(folder)], ["--out", str(folder / "out")]
    return {
        "summary": lambda: summary.main(read),
        "paper_tables": lambda: paper_tables.main([*read, *out]),
        "pages": lambda: pages.main(["--results", str(folder), *out]),
        "alike": lambda: alike.main([*read, "--like", "lr1e-5_bf16_ep5", "--by", "verbmem_f"]),
    }


def refused(call, capsys) -> str:
    """The one line with which a program ends."""
    code = call()
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1 and "remove it and run the sweep again" in said, said
    return said


@pytest.mark.parametrize("name", ["scores", "recovery"])
def test_columns_that_came_later_are_empty(tmp_path, name):
    write(tmp_path, ["checkpoint", "step", "bits_per_weight", "n", "interval"], name)
    read = tables.read(tmp_path, [name])[name]
    assert (
        (read.checkpoint == "").all()
        and (read.interval == "").all()
        and read[["step", "bits_per_weight", "n"]].isna().all(axis=None)
    )
    for program, call in readers(tmp_path).items():
        assert call() == 0, program


@pytest.mark.parametrize("name, column", [("scores", "value"), ("recovery", "R_low")])
def test_a_column_that_matters_is_named_in_one_line(tmp_path, capsys, name, column):
    write(tmp_path, column, name)
    calls = readers(tmp_path) | {"draw": lambda: draw.main(["--tables", str(tmp_path), "--figure", "ingredients", "--out", "x"])}
    for call in calls.values():
        assert f"{name}.csv' has no column {column}: another version wrote it" in refused(call, capsys)


def test_the_other_tables_are_looked_at_too(tmp_path, capsys):
    write(tmp_path, "kept", "mechanism")
    assert "mechanism.csv' has no column kept" in refused(lambda: predict.main(["--tables", str(tmp_path)]), capsys)
    write(tmp_path, "model_bytes", "costs")
    call = ["--tables", str(tmp_path), "--figure", "cost", "--out", str(tmp_path / "x")]
    assert "costs.csv' has no column model_bytes" in refused(lambda: draw.main(call), capsys)
    (tmp_path / "schemes.csv").write_text("scheme\nfull\n")
    said = refused(lambda: schemes.main(["--tables", str(tmp_path)]), capsys)
    assert "schemes.csv' has no column corpus, method, regularizer and" in said


def test_a_column_that_came_later_to_another_table_is_empty(tmp_path):
    write(tmp_path, "reach", "mechanism")
    assert tables.read(tmp_path, ["mechanism"])["mechanism"].reach.isna().all()
    assert predict.main(["--tables", str(tmp_path)]) == 0


def test_a_table_that_is_not_there_stops_only_the_figures_that_read_it(tmp_path, capsys):
    write(tmp_path, [])
    (tmp_path / "costs.csv").unlink()
    out = tmp_path / "figures"
    assert draw.main(["--tables", str(tmp_path), "--figure", "cost", "quantized_scatter", "--out", f"{out}/"]) == 2
    said = capsys.readouterr().err
    assert "error: not drawn: cost: tables: " in said and "costs.csv' does not exist" in said and said.count("\n") == 1
    assert {path.name for path in out.iterdir()} == {"quantized_scatter.svg", "quantized_scatter.pdf"}


@pytest.mark.parametrize("text", ["", "run,value\na,much\n"], ids=["empty", "no number"])
def test_what_is_no_table_is_named(tmp_path, capsys, text):
    (tmp_path / "scores.csv").write_text(text)
    assert "scores.csv' is not readable as a table (" in refused(lambda: summary.main(["--tables", str(tmp_path)]), capsys)


def test_a_recovery_that_rounds_to_nothing_has_no_sign():
    row = SimpleNamespace(R=-0.002, R_low=-0.125, R_high=-0.0004)
    assert summary.percent(row) == "0 % [-12, 0]"
    assert recovery_heatmap.number(row, intervals=True)[2] == "0\n[−12, 0]"
