"""The paper's tables: published numbers, the share that is retained, cells beside each other, and scores from recorded files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scripts import paper_tables, recorded
from scripts.core.analysis import columns, published, tables

GOLDEN = Path(__file__).parents[3] / "shared" / "reference" / "golden"
BASE = {"corpus": "books", "regularizer": "klr", "lr": "1e-5", "weights": "bf16", "moments": "bf16", "setting": "s", "seed": 0}


def score(method, scheme, metric, value, **more):
    kind, _, split = metric.partition("_")
    row = BASE | {"run": method, "method": method, "scheme": scheme, "metric": metric, "kind": kind, "value": value, "n": 2}
    return (
        row | {"split": {"f": "forget", "r": "retain"}.get(split, ""), "status": "ok" if value is not None else "diverged"} | more
    )


def frames(scores, recovery=()):
    return {"scores": tables.frame(scores, columns.SCORES), "recovery": tables.frame(list(recovery), columns.RECOVERY)}


def test_published_file_is_whole():
    table = published.published()
    assert len(table) == 77 and not table.duplicated(["source", *published.KEY]).any()
    assert set(table.source) == {source for group in paper_tables.SOURCES.values() for source in group}


def test_the_papers_21_and_83_percent_follow_from_its_table():
    row = published.retained(published.published_recovery()).set_index("scheme").loc["4bit"]
    assert row.cells == 16 and row.left_out == 0
    assert round(row.share_full) == 21 and round(row.share_quantized) == 83
    assert published.retained(published.published_recovery()).set_index("scheme").loc["8bit"].left_out == 4  # NPO_KLR


def test_retained_by_hand_and_without_masked_unregularized_or_diverged_runs():
    def cell(regularizer, scheme, unlearned, target, **more):
        return score("npo", scheme, "verbmem_f", None, regularizer=regularizer, unlearned=unlearned, target=target) | more

    rows = [cell("gdr", "full", 10, 100), cell("gdr", "rtn", 60, 80), cell("klr", "full", 30, 100), cell("klr", "rtn", 20, 80)]
    rows += [cell("none", "full", 0, 100), cell("none", "rtn", 0, 80)]
    rows += [cell("gdr", "full", None, 100, setting="wild"), cell("gdr", "rtn", 5, 80, setting="wild")]
    rows += [cell("gdr", scheme, 0, 100, setting="sure", saliency="module") for scheme in ("full", "rtn")]
    rows = [row | {"saliency": row.get("saliency", "none")} for row in rows]
    found = published.retained(frames([], rows)["recovery"]).iloc[0].to_dict()
    shares = {"share_full": 20, "share_quantized": 50, "mean_full": 20, "mean_quantized": 50}
    assert found == {"scheme": "rtn", "cells": 2, "left_out": 1} | {name: pytest.approx(share) for name, share in shares.items()}


def retained(*rows):
    """What is told of (setting, scheme, unlearned, target) or of mappings with more."""
    named = [
        dict(zip(("setting", "scheme", "unlearned", "target"), row, strict=True)) if isinstance(row, tuple) else row for row in rows
    ]
    made = [score("npo", row["scheme"], row.get("metric", "verbmem_f"), None) | {"saliency": ""} | row for row in named]
    return published.retained(frames([], made)["recovery"]).to_dict("records")


def test_shares_weigh_a_cell_by_the_target_and_means_do_not():
    full = [("a", "full", 10, 100), ("b", "full", 5, 10), ("c", "full", 0, 50)]
    (found,) = retained(*full, ("a", "rtn", 20, 80), ("b", "rtn", 20, 20), ("c", "rtn", 8, 40))
    assert found["share_full"] == pytest.approx(100 * 15 / 160) and found["mean_full"] == pytest.approx((10 + 50 + 0) / 3)
    assert found["share_quantized"] == pytest.approx(100 * 48 / 140)
    assert found["mean_quantized"] == pytest.approx((25 + 100 + 20) / 3)


def test_cells_without_a_share_under_both_are_left_out_and_counted():
    whole = [("a", "full", 10, 100), ("a", "rtn", 20, 80)]
    for lost in (("b", "full", 1, 100), ("b", "rtn", 1, 80)):
        (found,) = retained(*whole, lost)
        assert (found["cells"], found["left_out"], found["share_quantized"]) == (1, 1, 25)
    for scheme in ("full", "rtn"):  # a target that knows nothing
        lost = [("b", name, 1, 0 if name == scheme else 100) for name in ("full", "rtn")]
        assert [row["left_out"] for row in retained(*whole, *lost)] == [1]
    assert retained(("a", "full", 10, 100), ("a", "rtn", None, 80)) == []


def test_what_is_retained_is_of_one_metric_of_a_kind_of_pooled_seeds_and_of_the_end_of_a_training():
    rows = [{"setting": "a", "scheme": name, "unlearned": 10, "target": 100, "seed": "all"} for name in ("full", "rtn")]
    (found,) = retained(*rows)
    others = [{"seed": 0}, {"seed": 1}, {"seed": 0, "checkpoint": "step3"}, {"metric": "verbmem_short", "kind": "verbmem"}]
    assert retained(*rows, *(row | {"unlearned": 90} | other for other in others for row in rows)) == [found]
    knowmem = [row | {"metric": "knowmem_f", "kind": "knowmem", "unlearned": 30} for row in rows]
    (both,) = retained(*rows, *knowmem)
    assert (both["cells"], both["share_full"]) == (2, 20)


@pytest.mark.parametrize(
    "name, there, scheme",
    [
        ("full", {"full"}, "full"),
        ("bf16", {"full"}, "full"),
        ("8bit", {"bnb_fp4", "bnb_int8", "full"}, "bnb_int8"),
        ("4bit", {"bnb_nf4", "bnb_fp4"}, "bnb_fp4"),
        ("gptq_int4_g128", {"gptq"}, "gptq"),
        ("gptq_int4_g128", {"gptq", "gptq_int4_g128"}, "gptq_int4_g128"),
        ("awq_int4_g128", {"full"}, "awq_int4_g128"),
        ("hqq", {"hqq"}, "hqq"),
    ],
)
def test_the_scheme_that_stands_for_a_published_one(name, there, scheme):
    assert published.ours(name, there, {}) == scheme
    assert published.ours(name, there, {name: "mine"}) == "mine"


def test_a_cell_has_the_first_metric_of_each_kind_and_split():
    rows = [score("npo", "full", "verbmem_f", 10.0, checkpoint="step3")]
    rows += [score("npo", "full", name, value) for name, value in (("verbmem_f", 1.0), ("knowmem_f", 2.0), ("knowmem_r", 3.0))]
    rows += [score("npo", "full", "privleak", 4.0), score("npo", "full", "fluency", 5.0)]
    rows += [score("npo", "full", name, value, kind="lm_eval") for name, value in (("gen", 6.0), ("mmlu", None))]
    rows += [score("npo", "full", "verbmem_f", 8.0) | {"metric": "again"}, score("npo", "full", "verbmem_r", 9.0)]
    rows += [score("npo", "full", "rouge_f", 11.0)]
    rows += [score("ga", "full", "verbmem_f", None), score("ga", "full", "knowmem_f", None, status="missing")]
    table = published.wide(frames([row | {"saliency": "none"} for row in rows])["scores"]).set_index("method")
    expected = {"verbmem_f": 1, "knowmem_f": 2, "privleak": 4, "knowmem_r": 3, "gen": 6, "flu": 5}
    assert table.loc["npo", list(published.METRICS)].dropna().to_dict() == expected
    assert len(table) == 2 and set(table.saliency) == {""} and table.why.to_dict() == {"npo": "", "ga": "diverged"}


def test_beside_differences_missing_and_sure():
    rows = [score("npo", "full", "verbmem_f", 12.9), score("npo", "bnb_fp4", "knowmem_f", None)]
    rows += [score("npo", "bnb_fp4", "verbmem_f", 50.0, saliency="module"), score("new", "full", "verbmem_f", 1.0)]
    table = published.beside(frames(rows)["scores"], (published.PRECISIONS,)).set_index(
        ["method", "regularizer", "scheme", "saliency"]
    )
    assert set(table.corpus) == {"books"}, "no rows of corpora that the sweep lacks"
    cell = table.loc[("npo", "klr", "full", "")]
    assert (cell.verbmem_f, cell.verbmem_f_published) == (12.9, 12.4) and cell.verbmem_f_difference == pytest.approx(0.5)
    diverged = table.loc[("npo", "klr", "bnb_fp4", "")]
    assert np.isnan(diverged.knowmem_f) and diverged.why == "diverged" and diverged.published_scheme == "4bit"
    assert table.loc[("ga", "gdr", "full", "")].why == "missing"
    assert table.loc[("new", "klr", "full", "")].source == "" and table.loc[("npo", "klr", "bnb_fp4", "module")].source == ""
    other = published.beside(frames(rows)["scores"], (published.PRECISIONS,), {"4bit": "bnb_nf4"})
    assert "bnb_nf4" in set(other.scheme)


def test_tables_are_written_as_csv_markdown_and_latex(tmp_path):
    made = paper_tables.make(frames([score("npo", "full", "verbmem_f", 12.9), score("npo", "bnb_fp4", "knowmem_f", None)]))
    paper_tables.write(made, tmp_path)
    assert set(made) == {*paper_tables.SOURCES, "retained"}
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.{kind}" for name in made for kind in ("csv", "md", "tex")}
    text = (tmp_path / "precisions.md").read_text()
    assert "| books | npo_klr | full | 12.9 (12.4; +0.5) | – (13.7) |" in text and "diverged (34.2)" in text
    tex = (tmp_path / "precisions.tex").read_text()
    assert r"books & npo\_klr & full & 12.9 (12.4; +0.5) & -- (13.7)" in tex and tex.count("&") % tex.count(r"\\") == 0
    assert len(pd.read_csv(tmp_path / "sure.csv")) >= 9
    paper_tables.write(paper_tables.make(frames([])), tmp_path)
    assert "21.4" in (tmp_path / "retained.md").read_text()


def test_recorded_scores_have_intervals_and_no_privleak(tmp_path):
    samples = [{"gt": "a b c d", "response": text} for text in ("a b c d", "x", "a b")]
    (tmp_path / "r.json").write_text(json.dumps({"corpus": "books", "knowmem_f": {"samples": samples}}))
    assert recorded.main(["--out", str(tmp_path / "out"), f"npo_klr={tmp_path / 'r.json'}"]) == 0
    row = tables.read(tmp_path / "out")["scores"].iloc[0]
    assert (
        row.value == pytest.approx(100 * (1 + 0 + 2 / 3) / 3, abs=1e-5) and row.low < row.value < row.high and row.method == "npo"
    )


@pytest.mark.parametrize(
    "content, name", [({"knowmem_f": {"samples": []}}, "npo_klr"), ({"corpus": "books"}, "npo_klr"), ({"corpus": "b"}, "x")]
)
def test_recorded_refuses_in_one_line(tmp_path, capsys, content, name):
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert recorded.main(["--out", str(tmp_path / "out"), f"{name}={tmp_path / 'r.json'}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="recorded 7B outputs are not beside this checkout")
def test_the_recorded_7b_runs(tmp_path):
    pairs = [
        f"{name}={GOLDEN / file}"
        for name, file in (("ga_klr", "ga_klr.json"), ("npo_klr", "npo_klr.json"), ("task_vector_none", "tv.json"))
    ]
    assert recorded.main(["--out", str(tmp_path), *pairs]) == 0
    table = paper_tables.make(tables.read(tmp_path))["precisions"].set_index(["corpus", "method", "regularizer", "scheme"])
    assert table.loc[("books", "ga", "klr", "full")].knowmem_f == pytest.approx(10.101570) and np.isnan(
        table.loc[("books", "ga", "klr", "full")].privleak
    )
