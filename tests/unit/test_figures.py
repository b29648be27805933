"""Every figure draws what the tables say, says what is missing, and stays legible; data are read back from the artists."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from scripts import calibration_effect, costs, mechanism_tables, predict
from scripts import draw as program
from scripts.core import registry, style, tables
from scripts.figures import _panels as panels

SCHEMES = ("full", "bnb_fp4", "rtn_int4_tensor")
METRICS = (("verbmem_f", "verbmem", "forget"), ("knowmem_f", "knowmem", "forget"), ("knowmem_r", "knowmem", "retain"))
FIGURES = registry.names("figures")
RUNS = [("npo", "gdr", "bf16"), ("npo", "gdr", "fp32"), ("ga", "klr", "bf16")]


WEIGHTS = [(layer, module) for layer in (0, 1, 2) for module in ("self_attn.q_proj", "mlp.up_proj")] + [(np.nan, "embed_tokens")]


def masks(label):
    """Rows of a run's mask: the upper half of its weights is trained."""
    shared = label | {"objective": label["method"], "saliency": "module", "percentile": 50.0, "threshold": 1e-3, "status": "ok"}
    norms = [1e-5 * 10**number for number in range(len(WEIGHTS))]
    return [
        shared | {"layer": layer, "module": module, "norm": norm, "trained": float(norm >= 1e-3)}
        for norm, (layer, module) in zip(norms, WEIGHTS, strict=True)
    ]


def make(runs=RUNS, corpora=("people",), diverged=("ga",), schemes=SCHEMES, settings=1):
    """Synthetic tables: {"scores", "recovery", "calibration_effect"}."""
    generator = np.random.default_rng(0)
    rows, back, masked, moved, weighed, spent = [], [], [], [], [], []
    for corpus in corpora:
        named = [(method, "none", "", "") for method in ("target", "retrain")]
        named += [(*run, f"lr{k + 1}e-5_{run[2]}_ep5") for run in runs for k in range(settings)]
        for method, regularizer, weights, setting in named:
            label = {"run": f"{corpus}/{method}_{regularizer}/{setting}/seed0", "corpus": corpus, "method": method}
            label |= {"regularizer": regularizer, "weights": weights, "moments": weights, "setting": setting, "seed": "0"}
            label["lr"] = setting[2:6]
            masked += masks(label) if setting else []
            spent += [cost(label, scheme, method in diverged) for scheme in schemes]
            if setting:
                weighed += weights_of(label, schemes, method in diverged)
                moved += [] if method in diverged else histograms(label["run"], schemes)
            for scheme in schemes:
                for metric, kind, split in METRICS:
                    value = generator.uniform(20, 90)
                    bad = method in diverged
                    row = label | {"scheme": scheme, "metric": metric, "kind": kind, "split": split, "interval": "samples"}
                    row |= {"status": "diverged", "reason": "diverged at step 7"} if bad else {"status": "ok", "reason": ""}
                    if not bad:
                        row |= {"value": value, "low": value - 5, "high": value + 5, "n": 30}
                    rows.append(row)
                    if split == "forget" and method not in tables.REFERENCES:
                        share = generator.uniform(-0.5, 1)
                        more = {"R_reason": "diverged: the unlearned run (diverged at step 7)", "K_reason": "diverged"}
                        if not bad:
                            more = {"R": share, "R_low": share - 0.1, "R_high": share + 0.1, "K": 0.5}
                        back.append({k: v for k, v in row.items() if k not in ("value", "low", "high", "reason")} | more)
    return {
        "scores": tables.frame(rows, tables.SCORES),
        "recovery": tables.frame(back, tables.RECOVERY),
        "masks": pd.DataFrame(masked, columns=list(masks(label)[0])),
        "calibration_effect": tables.frame(list(calibrated(back)), calibration_effect.COLUMNS),
        "moved": pd.DataFrame(moved, columns=mechanism_tables.MOVED),
        "mechanism": pd.DataFrame(weighed, columns=mechanism_tables.MECHANISM),
        "costs": pd.DataFrame(spent, columns=costs.COLUMNS),
        **predicted(back),
    }


def cost(label, scheme, bad):
    """A row of costs.csv: an hour of training, two of evaluation, 1 MB of checkpoint; a diverged run was trained only."""
    row = {name: label.get(name, "") for name in mechanism_tables.LABELS} | {"scheme": scheme, "device": "cpu", "train_hours": 1.0}
    return row if bad else row | {"evaluate_hours": 2.0, "checkpoint_bytes": 1e6, "model_bytes": 5e5}


def weights_of(label, schemes, bad):
    """Rows of mechanism.csv of a run; each scheme's innermost code ends at another weight."""
    row = {name: label[name] for name in mechanism_tables.LABELS} | {"module": "all", "status": "diverged" if bad else "ok"}
    return [row | {"scheme": scheme, "edge": 2.0**-i} for i, scheme in enumerate(() if bad else schemes)] or [row | {"scheme": ""}]


def histograms(run, schemes):
    """Rows of moved.csv of a run; a bin in the middle is empty."""
    whats = [("", "all"), ("", "moved"), ("", "steps"), *((scheme, "crossed") for scheme in schemes)]
    return [
        {"run": run, "scheme": scheme, "what": what, "log2": log2, "count": 10 * (i + 1)}
        for i, (scheme, what) in enumerate(whats)
        for log2 in (-4.0, -3.5, -2.5)
    ]


def predicted(back):
    """{"prediction", "prediction_fit"} as if every recovery had been predicted 10 points too high, one of them far beyond."""
    known = [row for row in back if row["scheme"] != "full" and "R" in row]
    rows = [
        row | {"left_out": split, "predictor": "weights", "predicted": 9.0 if i == 0 else row["R"] + 0.1}
        for split in ("method", "scheme")
        for i, row in enumerate(known)
    ]
    fits = [
        {"metric": metric, "kind": kind, "left_out": split, "predictor": "weights", "cells": 12.0}
        | {"R2": 0.5, "R2_low": -0.25, "R2_high": 0.75, "coverage": 0.85, "reason": ""}
        for metric, kind, _ in METRICS[:2]
        for split in ("method", "scheme")
    ]
    fits = fits if known else [dict.fromkeys(predict.FIT, "") | {"reason": "too few cells"}]
    return {"prediction": pd.DataFrame(rows, columns=predict.PREDICTION), "prediction_fit": pd.DataFrame(fits, columns=predict.FIT)}


def calibrated(back):
    """Rows of recovery as if the schemes but full precision differed in their calibration set alone."""
    for row in back:
        if row["scheme"] != "full":
            chosen = "generic" if row["scheme"] == "bnb_fp4" else "forget"
            more = {"family": "bnb_fp4", "calibration": chosen, "base": "generic"}
            if chosen == "forget" and "R" in row:
                more |= {"D": row["R"] / 2, "D_low": row["R"] / 2 - 0.1, "D_high": row["R"] / 2 + 0.1}
            yield row | more


def drawn(name, made):
    """A figure, laid out."""
    figure = registry.load("figures", name).draw(made)
    figure.draw_without_rendering()
    return figure


def words(figure):
    """All text that is shown; matplotlib keeps labels of ticks outside an axis's limits but does not draw them."""
    outside = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_major_ticks() + axis.get_minor_ticks()
            outside |= {t for tick in ticks if not low <= tick.get_loc() <= high for t in (tick.label1, tick.label2)}
        if not axes.get_visible():
            outside |= set(axes.findobj(Text))
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in outside]


def bars(axis, label):
    """(x, y) of the marks of an errorbar container with this label, sorted."""
    found = [c for c in axis.containers if c.get_label() == label]
    return sorted(zip(*(np.concatenate([c.lines[0].get_data()[i] for c in found]) for i in (0, 1)), strict=True)) if found else []


def values(made, **where):
    """Values of the rows of unlearned models, by method and weights."""
    table = made["scores"]
    table = table[~table.method.isin(tables.REFERENCES)]
    for column, value in where.items():
        table = table[table[column] == value]
    return table["value"].dropna().tolist()


MADE = {
    "usual": make(),
    "one run": make([("npo", "gdr", "bf16")], diverged=(), schemes=("full", "bnb_fp4")),
    "two corpora": make(corpora=("news", "books")),
    "hundreds": make(
        [(m, r, w) for m in ("npo", "ga", "tv") for r in ("gdr", "klr") for w in ("bf16", "fp32")], settings=9, diverged=()
    ),
    "no runs": make([]),
    "all diverged": make(diverged=("npo", "ga")),
    "references diverged": make(diverged=("target", "retrain")),
    "nothing": {
        "scores": tables.frame([], tables.SCORES),
        "recovery": tables.frame([], tables.RECOVERY),
        "calibration_effect": tables.frame([], calibration_effect.COLUMNS),
    },
}
MADE["nothing"] |= {name: MADE["no runs"][name] for name in ("masks", "moved", "mechanism", "prediction")}
MADE["nothing"] |= {name: pd.DataFrame([], columns=MADE["no runs"][name].columns) for name in ("prediction_fit", "costs")}


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


def test_full_vs_quantized_shows_the_scores_and_marks_missing_ones():
    made = MADE["usual"]
    figure = drawn("full_vs_quantized", made)
    assert len(figure.axes) == 3
    for axis, (metric, _, _) in zip(figure.axes, METRICS, strict=True):
        for scheme in SCHEMES:
            assert [x for x, _ in bars(axis, f"_{scheme}")] == pytest.approx(sorted(values(made, metric=metric, scheme=scheme)))
            (cross,) = [line for line in axis.lines if line.get_label() == f"_missing {scheme}"]
            assert len(cross.get_xdata()) == 1
        whiskers = [c for c in axis.containers if c.get_label() == "_full"][0].lines[2][0].get_segments()
        assert sorted(round(s[1][0] - s[0][0], 6) for s in whiskers) == [10, 10]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["npo_gdr bf16", "npo_gdr fp32", "ga_klr bf16"]
    said = " ".join(text.get_text() for text in words(figure))
    assert "ga_klr bf16 (all schemes): diverged at step 7" in said and "95 % bootstrap intervals over samples" in said
    references = [
        line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() in ("-", "--") and len(line.get_xdata()) == 2
    ]
    scores = made["scores"]
    wanted = scores[scores.method.isin(tables.REFERENCES) & (scores.scheme == "full") & (scores.metric == "verbmem_f")]
    assert sorted(references) == pytest.approx(sorted(wanted["value"]))


def test_recovery_heatmap_prints_numbers_intervals_and_why_not():
    made = MADE["usual"]
    axis = drawn("recovery_heatmap", made).axes[0]
    shown = {tuple(np.round(t.get_position()).astype(int)): t.get_text() for t in axis.texts}
    table = made["recovery"]
    for y, (method, weights) in enumerate((("npo", "bf16"), ("npo", "fp32"), ("ga", "bf16"))):
        for x, scheme in enumerate(SCHEMES[1:]):
            mask = (table.method == method) & (table.weights == weights) & (table.scheme == scheme) & (table.metric == "verbmem_f")
            (row,) = table[mask].itertuples()
            wanted = (
                f"{100 * row.R:.0f}\n[{100 * row.R_low:.0f}, {100 * row.R_high:.0f}]".replace("-", "−")
                if row.R == row.R
                else "diverged"
            )
            assert shown[x, y] == wanted
    assert sum(bool(patch.get_hatch()) for patch in axis.patches) == 2
    many = drawn("recovery_heatmap", MADE["hundreds"]).axes[0]
    assert len(many.texts) == 12 * 9 * 2


@pytest.mark.parametrize("case", ["usual", "hundreds"])
def test_forget_vs_utility_joins_full_and_quantized(case):
    made = MADE[case]
    figure = drawn("forget_vs_utility", made)
    axis = figure.axes[0]  # VerbMem, first scheme
    points = {}
    for end, scheme in (("full", "full"), ("bnb_fp4", "bnb_fp4")):
        marks = [c.lines[0].get_data() for c in axis.containers if c.get_label().endswith(" " + end)]
        points[end] = sorted((x, y) for one in marks for x, y in zip(*one, strict=True))
        wanted = zip(values(made, metric="verbmem_f", scheme=scheme), values(made, metric="knowmem_r", scheme=scheme), strict=True)
        assert np.allclose(points[end], sorted(wanted))
    joined = [(tuple(a.xyann), tuple(a.xy)) for a in axis.texts if hasattr(a, "arrow_patch")]
    joined += [tuple(map(tuple, line)) for c in axis.collections if c.get_zorder() == 2 for line in c.get_segments()]
    assert len(joined) == len(points["full"])
    assert np.allclose(sorted(a for a, _ in joined), points["full"]) and np.allclose(
        sorted(b for _, b in joined), points["bnb_fp4"]
    )


def test_precision_control_pairs_cells_of_nearest_forgetting():
    made = make([("npo", "gdr", "bf16"), ("npo", "gdr", "fp32")], settings=3, diverged=())
    scores = made["scores"]
    for metric in ("verbmem_f", "knowmem_f"):
        for setting, value in (("lr1e-5_bf16_ep5", 90), ("lr2e-5_bf16_ep5", 50), ("lr3e-5_bf16_ep5", 10)):
            scores.loc[(scores.setting == setting) & (scores.scheme == "full") & (scores.metric == metric), "value"] = value
        for setting, value in (("lr1e-5_fp32_ep5", 70), ("lr2e-5_fp32_ep5", 99), ("lr3e-5_fp32_ep5", 47)):
            scores.loc[(scores.setting == setting) & (scores.scheme == "full") & (scores.metric == metric), "value"] = value
    figure = drawn("precision_control", made)
    assert any("npo_gdr: lr2e-5_bf16_ep5 beside lr3e-5_fp32_ep5" in text.get_text() for text in words(figure))
    axis = figure.axes[0]
    for weights, setting in (("bf16", "lr2e-5_bf16_ep5"), ("fp32", "lr3e-5_fp32_ep5")):
        assert [y for _, y in bars(axis, f"_{weights}")] == pytest.approx(values(made, setting=setting, metric="verbmem_f"))


def test_quantized_scatter_plots_scheme_against_full():
    made = MADE["usual"]
    axis = drawn("quantized_scatter", made).axes[1]  # VerbMem, second scheme
    points = bars(axis, "_npo_gdr bf16") + bars(axis, "_npo_gdr fp32")
    wanted = zip(*(values(made, metric="verbmem_f", scheme=s) for s in ("full", "rtn_int4_tensor")), strict=True)
    assert np.allclose(sorted(points), sorted(wanted))


def test_calibration_effect_shows_r_and_the_difference():
    made = MADE["usual"]
    figure = drawn("calibration_effect", made)
    assert len(figure.axes) == 4  # two metrics on the forget set, R and D
    table = made["calibration_effect"]
    for (left, right), metric in zip((figure.axes[:2], figure.axes[2:]), ("verbmem_f", "knowmem_f"), strict=True):
        rows = table[(table.metric == metric) & table.R.notna()]
        for name in ("generic", "forget"):
            own = rows[rows.calibration == name]
            assert [x for x, _ in bars(left, f"_{name}")] == pytest.approx(sorted(100 * own.R))
            assert [x for x, _ in bars(right, f"_{name}")] == pytest.approx(sorted(100 * own.D.dropna()))
        whiskers = next(c for c in right.containers if c.get_label() == "_forget").lines[2][0].get_segments()
        assert [s[1][0] - s[0][0] for s in whiskers] == pytest.approx([20, 20])
    said = " ".join(text.get_text() for text in words(figure))
    assert "calibrated on forget text" in said and "No R: ga_klr bf16 under bnb_fp4 (VerbMem): diverged" in said


def test_names_tell_cells_apart():
    assert list(tables.label(MADE["usual"]["scores"]).values()) == ["npo_gdr bf16", "npo_gdr fp32", "ga_klr bf16"]
    names = tables.label(MADE["hundreds"]["scores"])
    assert len(set(names.values())) == len(names) == 108 and "npo_gdr bf16 lr3e-5" in names.values()
    two = MADE["two corpora"]["scores"]
    assert set(tables.label(two).values()) == {"npo_gdr bf16", "npo_gdr fp32", "ga_klr bf16"}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_tables_a_title_line_and_a_caption(name):
    facts = registry.constants("figures", name)
    rules = (registry.SCRIPTS.parent / "workflow/rules/common.smk").read_text()
    known = re.search(r"^TABLE_NAMES = \((.*?)\)", rules, re.M | re.S)
    assert facts["TABLES"] and set(facts["TABLES"]) <= set(re.findall(r'"(\w+)"', known[1])) and facts["__doc__"]
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


def test_wrong_names_and_folders_are_one_line(tmp_path, capsys):
    for figure, words_ in (("recovery_heatmp", "did you mean 'recovery_heatmap'"), ("recovery_heatmap", "does not exist")):
        with pytest.raises(SystemExit) as stopped:
            program.main(["--tables", str(tmp_path), "--figure", figure, "--out", str(tmp_path / "x")])
        said = capsys.readouterr().err
        assert stopped.value.code and words_ in said and said.count("\n") == 1


def test_drawing_needs_no_torch(tmp_path):
    import subprocess
    import sys

    code = "import sys, scripts.draw, scripts.aggregate, scripts.summary, scripts.core.style; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=registry.SCRIPTS.parent)
    assert found.stdout.strip() == "False"


def test_tables_round_trip_keeps_text_as_text(tmp_path):
    tables.write(MADE["usual"]["scores"], tmp_path / "scores.csv")
    read = tables.read(tmp_path, ["scores"])["scores"]
    assert read.reason.iloc[0] == "" and read.seed.iloc[0] == "0"
    assert pd.api.types.is_float_dtype(read["value"]) and np.allclose(
        read["value"].dropna(), MADE["usual"]["scores"]["value"].dropna()
    )


def test_schemes_stand_by_their_bits():
    table = make(schemes=("rtn_int4_tensor", "bnb_int8", "full", "other"))["scores"]
    assert tables.schemes(table) == ["full", "rtn_int4_tensor", "bnb_int8", "other"]
    table["bits_per_weight"] = table.scheme.map({"rtn_int4_tensor": 5.0, "bnb_int8": 9.0, "full": 16.0, "other": 4.5})
    assert tables.schemes(table) == ["full", "bnb_int8", "rtn_int4_tensor", "other"]


def test_ingredients_name_what_a_row_changes_and_show_its_recovery():
    made = make([("npo", "gdr", "bf16"), ("npo", "gdr", "fp32")], settings=2, diverged=())
    made["recovery"]["unlearned"] = 50.0
    left, right = drawn("ingredients", made).axes[:2]
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names[0] == "centre: lr 1e-5, bf16" and len(names) == 4 and "lr 2e-5" in names
    assert "weights fp32, moments fp32" in names
    rows = made["recovery"]
    for scheme in SCHEMES[1:]:
        wanted = rows[(rows.scheme == scheme) & (rows.metric == "verbmem_f")].R * 100
        assert [x for x, _ in bars(right, f"_{scheme}")] == pytest.approx(sorted(wanted))


def test_recovery_by_width_plots_hidden_sizes():
    made = make([("npo", "gdr", "bf16")], corpora=("w1", "w2", "w3"), diverged=())
    made["recovery"]["hidden"] = made["recovery"].corpus.map({"w1": "64", "w2": "128", "w3": "256"})
    axis = drawn("recovery_by_width", made).axes[0]
    rows = made["recovery"]
    for scheme in SCHEMES[1:]:
        wanted = rows[(rows.scheme == scheme) & (rows.metric == "verbmem_f")]
        points = bars(axis, f"_{scheme}")
        assert [x for x, _ in points] == [64, 128, 256] and [y for _, y in points] == pytest.approx(list(100 * wanted.R))


def test_over_training_draws_every_checkpoint_at_its_step():
    made, parts = make([("npo", "gdr", "bf16")], diverged=()), []
    for step, name in ((10, "step10"), (20, "step20"), (30, "")):
        rows = made["scores"].copy()
        unlearned = ~rows.method.isin(tables.REFERENCES)
        rows.loc[unlearned, "checkpoint"], rows.loc[unlearned, "step"] = name, step
        rows.loc[unlearned, "value"] -= step
        parts.append(rows if name == "" else rows[unlearned])
    picked = parts[1].assign(checkpoint=tables.STOPPED)
    scores = pd.concat([*parts, picked], ignore_index=True)
    axis = drawn("over_training", {"scores": scores}).axes[0]
    for scheme in SCHEMES:
        wanted = scores[(scores.method == "npo") & (scores.scheme == scheme) & (scores.metric == "verbmem_f")]
        wanted = wanted[wanted.checkpoint != tables.STOPPED].sort_values("step")
        assert bars(axis, f"_{scheme}") == list(zip(wanted.step, wanted["value"], strict=True))
    (ring,) = [line for line in axis.lines if line.get_label() == "_stop"]
    assert list(ring.get_xdata()) == [20]
    usual = panels.unlearned(scores)
    assert set(usual.checkpoint) == {"", tables.STOPPED}  # other figures show the last and the picked one
    assert list(tables.label(usual).values()) == ["npo_gdr bf16", "npo_gdr bf16 (stop: retrain)"]


def test_salient_modules_show_norms_and_what_is_trained():
    made = make([("npo", "gdr", "bf16"), ("npo", "klr", "bf16"), ("ga", "klr", "fp32")], diverged=())
    lost = made["masks"].iloc[:1].assign(run="people/npo_gdr/lost/seed0", status="missing", layer=np.nan, norm=np.nan)
    figure = drawn("salient_modules", made | {"masks": pd.concat([made["masks"], lost])})
    first, second = [axis for axis in figure.axes if axis.get_title()]
    assert (first.get_title(), second.get_title()) == ("npo, module P50, bf16", "ga, module P50, fp32")
    assert [label.get_text() for label in first.get_yticklabels()] == ["self_attn.q_proj", "mlp.up_proj", "embed_tokens"]
    assert [label.get_text() for label in first.get_xticklabels()] == ["0", "1", "2", "other"]
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 2)]  # of WEIGHTS, whose norms rise
    shades = {
        (patch.get_x() + 0.5, patch.get_y() + 0.5): np.dot(patch.get_facecolor()[:3], (0.3, 0.6, 0.1)) for patch in first.patches
    }
    assert [shades[place] for place in places] == sorted(shades.values()) and len(set(shades.values())) == 7
    (dots,) = [dots for dots in first.collections if dots.get_label() == "_trained"]
    assert sorted(map(tuple, dots.get_offsets().tolist())) == sorted(places[2:])
    said = " ".join(text.get_text() for text in words(figure))
    assert "that of 2 runs: npo, module P50, bf16" in said and "No mask: people/npo_gdr/lost/seed0" in said


def test_learning_rates_plot_every_score_at_its_rate():
    made = make([("npo", "gdr", "bf16"), ("npo", "gdr", "fp32")], settings=3, diverged=())
    figure = drawn("learning_rates", made)
    assert [axis.get_title() for axis in figure.axes] == ["npo_gdr, bf16 weights", "npo_gdr, fp32 weights"]
    for axis, weights in zip(figure.axes, ("bf16", "fp32"), strict=True):
        assert axis.get_xscale() == "log"
        for scheme in SCHEMES:
            points = bars(axis, f"_{scheme}")
            assert [x for x, _ in points] == pytest.approx([1e-5, 2e-5, 3e-5])
            assert [y for _, y in points] == pytest.approx(values(made, weights=weights, metric="verbmem_f", scheme=scheme))


def test_weights_moved_draws_the_histograms_and_the_codes():
    made = MADE["usual"]
    figure = drawn("weights_moved", made)
    assert [axis.get_title(loc="left") for axis in figure.axes[::2]] == ["npo_gdr bf16", "npo_gdr fp32"]
    left, right = figure.axes[:2]
    stairs = {patch.get_label(): patch.get_data() for patch in left.patches + right.patches}
    assert set(stairs) == {"_all ", "_moved ", "_steps ", "_crossed bnb_fp4", "_crossed rtn_int4_tensor"}
    for label, height in (("_all ", 10), ("_moved ", 20), ("_steps ", 30), ("_crossed bnb_fp4", 50)):
        assert list(stairs[label].values) == [height, height, 0, height]
        assert list(stairs[label].edges) == pytest.approx([2.0**-4, 2.0**-3.5, 2.0**-3, 2.0**-2.5, 2.0**-2])
    for axis in (left, right):
        edges = {line.get_label(): line.get_xdata()[0] for line in axis.lines if line.get_label().startswith("_edge")}
        assert edges == {"_edge bnb_fp4": 0.5, "_edge rtn_int4_tensor": 0.25}
    said = " ".join(text.get_text() for text in words(figure))
    assert "No weights: people/ga_klr/lr1e-5_bf16_ep5/seed0: diverged" in said
    many = drawn("weights_moved", MADE["hundreds"])
    assert len(many.axes) == 12 and "102 more settings are not drawn" in " ".join(text.get_text() for text in words(many))


def test_prediction_sets_measured_beside_predicted():
    made = MADE["usual"]
    figure = drawn("prediction", made)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "VerbMem, a method left out", "KnowMem, a method left out", "VerbMem, a scheme left out", "KnowMem, a scheme left out",
    ]  # fmt: skip
    table = made["prediction"]
    rows = table[(table.kind == "verbmem") & (table.left_out == "method")]
    axis, outside = figure.axes[0], rows.predicted == 9.0
    assert outside.sum() == 1
    points = bars(axis, "_bnb_fp4") + bars(axis, "_rtn_int4_tensor")
    wanted = list(zip(rows.predicted.where(~outside, 1.1) * 100, rows.R * 100, strict=True))  # what lies beyond stands at the edge
    assert np.allclose(sorted(points), sorted(wanted))
    whiskers = next(c for c in axis.containers if c.get_label() == "_rtn_int4_tensor").lines[2][0].get_segments()
    assert [segment[1][1] - segment[0][1] for segment in whiskers] == pytest.approx([20, 20])
    said = " ".join(text.get_text() for text in words(figure))
    assert "R² 0.50 [−0.25, 0.75]\n12 cells\n90 % bands hold 85 %" in said and "2 predictions lie beyond" in said
    assert "too few cells" in words(drawn("prediction", MADE["all diverged"]))[0].get_text()


def test_cost_stacks_times_and_sets_sizes_beside_them():
    figure = drawn("cost", MADE["usual"])
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()][2:] == ["npo_gdr bf16", "npo_gdr fp32", "ga_klr bf16"]
    widths = {bars_.get_label(): [patch.get_width() for patch in bars_] for bars_ in left.containers}
    assert widths["_training"] == [1.0] * 5 and widths["_evaluation"] == [6.0, 6.0, 6.0, 6.0, 0.0]  # three schemes, two hours each
    assert left.get_xlabel() == "wall-clock time of its jobs (h, on CPU)" and right.get_xlabel() == "size (MB)"
    sizes = {line.get_label(): list(line.get_xdata()) for line in right.lines}
    assert sizes["_checkpoint"] == [1.0] * 4 and sizes["_bnb_fp4"] == [0.5] * 4
