"""Every figure copes with any table and stays legible; the program that draws them; the tables' own order and labels."""

import re

import numpy as np
import pandas as pd
import pytest

from scripts import draw as program
from scripts.core import registry
from scripts.core.analysis import columns, style, tables
from tests.unit.figure_tables import MADE, drawn, make, words

FIGURES = registry.names("figures")


@pytest.mark.parametrize("case", MADE)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_copes_and_stays_legible(name, case):
    figure = drawn(name, MADE[case])
    shown = words(figure)
    assert shown, "a figure says at least that there is nothing"
    assert min(text.get_fontsize() for text in shown) >= 6
    assert figure.get_figwidth() <= style.TEXT
    empty = case in ("no runs", "nothing")
    assert any("Nothing to draw yet" in text.get_text() for text in shown) or not empty
    box = figure.bbox
    for text in shown:  # nothing is cut off at the figure's edge
        if text.get_in_layout():
            extent = text.get_window_extent()
            assert extent.x0 >= box.x0 - 2 and extent.x1 <= box.x1 + 2, (text.get_text(), extent, box)


def test_names_tell_cells_apart():
    assert list(tables.label(MADE["usual"]["scores"]).values()) == ["npo_gdr bf16", "npo_gdr fp32", "ga_klr bf16"]
    names = tables.label(MADE["hundreds"]["scores"])
    assert len(set(names.values())) == len(names) == 108 and "npo_gdr bf16 lr3e-5" in names.values()
    two = MADE["two corpora"]["scores"]
    assert set(tables.label(two).values()) == {"npo_gdr bf16", "npo_gdr fp32", "ga_klr bf16"}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_tables_a_title_line_and_a_caption(name):
    facts = registry.constants("figures", name)
    assert facts["TABLES"] and set(facts["TABLES"]) <= columns.TABLES.keys() and facts["__doc__"]
    caption = registry.SCRIPTS.parent / "workflow" / "report" / f"{name}.rst"
    assert caption.read_text(encoding="utf-8").startswith("**")


def test_command_writes_the_same_bytes_twice_with_fonts_embedded(tmp_path):
    for name, table in MADE["one run"].items():
        tables.write(table, tmp_path / f"{name}.csv")
    for folder in ("one", "two"):
        assert program.main(["--tables", str(tmp_path), "--figure", "all", "--out", str(tmp_path / folder)]) == 0
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(f"{name}.{kind}" for name in FIGURES for kind in ("svg", "pdf"))
    for file in files:
        content = (tmp_path / "one" / file).read_bytes()
        assert content == (tmp_path / "two" / file).read_bytes(), file
        if file.endswith("svg"):
            assert b"<text" not in content and b"<dc:date>" not in content and re.search(rb"<svg[^>]*viewBox", content)
        else:
            assert b"/Type3" not in content and b"/CIDFontType2" in content
    assert program.main(["--tables", str(tmp_path), "--figure", "quantized_scatter", "--out", str(tmp_path / "x/single")]) == 0
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["single.pdf", "single.svg"]


def test_a_broken_figure_stops_no_other_and_leaves_a_mark(tmp_path, monkeypatch, capsys):
    for name, table in MADE["one run"].items():
        tables.write(table, tmp_path / f"{name}.csv")
    names, load = ["quantized_scatter", "recovery_heatmap", "forget_vs_utility"], registry.load
    broken = type("Plugin", (), {"draw": staticmethod(lambda read: {}["hours"])})
    monkeypatch.setattr(registry, "load", lambda room, name: broken if name == "recovery_heatmap" else load(room, name))
    arguments = ["--tables", str(tmp_path), "--figure", *names, "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        program.main(arguments)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "KeyError: 'hours'" in said and "recovery_heatmap: its code failed" in said.splitlines()[-1]
    drawn = {f"{name}.{kind}" for name in (names[0], names[2]) for kind in ("svg", "pdf")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == drawn | {".recovery_heatmap.broken"}
    monkeypatch.undo()
    assert program.main(arguments) == 0 and not (tmp_path / "out/.recovery_heatmap.broken").exists()


def test_wrong_names_and_folders_are_one_line(tmp_path, capsys):
    for figure, words_ in (("recovery_heatmp", "did you mean 'recovery_heatmap'"), ("recovery_heatmap", "does not exist")):
        assert program.main(["--tables", str(tmp_path), "--figure", figure, "--out", str(tmp_path / "x")]) == 2
        said = capsys.readouterr().err
        assert words_ in said and said.count("\n") == 1


def test_drawing_needs_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, scripts.draw, scripts.aggregate, scripts.summary, scripts.core.analysis.style; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=registry.SCRIPTS.parent)
    assert found.stdout.strip() == "False"


def test_tables_round_trip_keeps_text_as_text(tmp_path):
    tables.write(MADE["usual"]["scores"], tmp_path / "scores.csv")
    read = tables.read(tmp_path, ["scores"])["scores"]
    assert read.reason.iloc[0] == "" and read.seed.iloc[0] == "0"
    assert pd.api.types.is_float_dtype(read["value"]) and np.allclose(
        read["value"].dropna(), MADE["usual"]["scores"]["value"].dropna()
    )


def test_a_column_of_another_table_is_numbers_only_where_all_of_it_is(tmp_path):
    made = pd.DataFrame({"edge": ["0.5", ""], "status": ["1", "missing"], "note": ["", ""]})
    tables.write(made, tmp_path / "other.csv")
    read = tables.read(tmp_path, ["other"])["other"]
    assert read.edge.dtype == float and read.status.tolist() == ["1", "missing"] and read.note.tolist() == ["", ""]


def test_schemes_stand_by_their_bits():
    table = make(schemes=("rtn_int4_tensor", "bnb_int8", "full", "other"))["scores"]
    assert tables.schemes(table) == ["full", "rtn_int4_tensor", "bnb_int8", "other"]
    table["bits_per_weight"] = table.scheme.map({"rtn_int4_tensor": 5.0, "bnb_int8": 9.0, "full": 16.0, "other": 4.5})
    assert tables.schemes(table) == ["full", "bnb_int8", "rtn_int4_tensor", "other"]
