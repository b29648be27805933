"""Figures of scores and of recovery draw what the tables say; data are read back from the artists."""

import numpy as np
import pandas as pd
import pytest

from scripts.core.analysis import tables
from scripts.figures import _panels as panels
from scripts.figures import ingredients
from tests.unit.figure_tables import MADE, METRICS, SCHEMES, bars, drawn, make, values, words


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


@pytest.mark.parametrize(
    ("reason", "little"),
    [
        ("undefined: the interval of target under the scheme minus unlearned at full precision holds 0 (-1.0 to 3.0)", True),
        ("undefined: full precision was scored on another number of samples", False),
    ],
)
def test_only_where_the_denominator_says_so_too_little_was_forgotten(reason, little):
    table = make([("npo", "gdr", "bf16"), ("npo", "gdr", "fp32")], diverged=())["recovery"]
    none = table.assign(R_reason=np.where(table.weights == "bf16", reason, ""))
    none.loc[none.weights == "bf16", ["R", "R_low", "R_high"]] = np.nan
    made = {"recovery": none, "scores": MADE["usual"]["scores"]}
    rows = [text.get_text() for text in drawn("ingredients", made).axes[1].texts]
    assert rows == ["too little forgotten to tell" if little else "undefined"]
    said = " ".join(" ".join(text.get_text() for text in words(drawn("recovery_heatmap", made))).split())
    assert ("too little to recover" in said) == little and ("on another number of samples" in said) != little


def test_without_knowmem_utility_is_verbmem_on_the_retain_set():
    made = make(diverged=())
    scores = made["scores"]
    scores["kind"] = "verbmem"
    assert tables.utility(MADE["usual"]["scores"]) == "knowmem_r" and tables.utility(scores[scores.split == "forget"]) is None
    made["scores"] = scores[scores.metric != "knowmem_f"]
    assert drawn("forget_vs_utility", made).axes[0].get_ylabel() == "VerbMem, retain set (×100)"
    titles = [axis.get_title() for axis in drawn("full_vs_quantized", made).axes]
    assert titles == ["VerbMem, forget set", "VerbMem, retain set"]


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


@pytest.mark.parametrize("lr_of_a, chosen", [("1e-5", "a beside d"), ("9e-5", "b beside d"), ("", "b beside d")])
def test_precision_control_prefers_alike_learning_rates(lr_of_a, chosen):
    """b forgets as much as d, a nearly so; with alike learning rates nowhere, or not known, forgetting alone decides."""
    made = make([("npo", "gdr", "bf16"), ("npo", "gdr", "fp32")], settings=2, diverged=())
    scores = made["scores"]
    cells = {"lr1e-5_bf16_ep5": ("a", lr_of_a, 40), "lr2e-5_bf16_ep5": ("b", "9e-5", 50), "lr1e-5_fp32_ep5": ("c", "", 10)}
    for setting, (name, lr, value) in (cells | {"lr2e-5_fp32_ep5": ("d", "2e-5", 50)}).items():
        rows = scores.setting == setting
        scores.loc[rows & (scores.scheme == "full"), "value"] = value
        scores.loc[rows, "lr"], scores.loc[rows, "setting"] = lr, name
    assert any(f"npo_gdr: {chosen}" in text.get_text() for text in words(drawn("precision_control", made)))


def test_quantized_scatter_plots_scheme_against_full():
    made = MADE["usual"]
    axis = drawn("quantized_scatter", made).axes[1]  # VerbMem, second scheme
    points = bars(axis, "_npo_gdr bf16") + bars(axis, "_npo_gdr fp32")
    wanted = zip(*(values(made, metric="verbmem_f", scheme=s) for s in ("full", "rtn_int4_tensor")), strict=True)
    assert np.allclose(sorted(points), sorted(wanted))


def test_stochastic_rounding_looks_like_no_other_precision():
    """A sweep of the control has all three, and one look for two of them would show the cure as the cause."""
    precisions = ("bf16", "bf16_stochastic", "fp32")
    made = make([("npo", "gdr", weights) for weights in precisions], diverged=())
    scatter, arrows = drawn("quantized_scatter", made), drawn("forget_vs_utility", made)
    for figure in (scatter, arrows):
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert [text for text in legend if text.endswith(" weights")] == [f"{weights} weights" for weights in precisions]
    marks = {c.get_label(): c.lines[0] for c in scatter.axes[0].containers}
    marks = [marks[f"_npo_gdr {weights}"] for weights in precisions]
    assert len({(mark.get_fillstyle(), mark.get_markerfacecolor()) for mark in marks}) == 3
    lines = [text.arrow_patch.get_linestyle() for text in arrows.axes[0].texts if hasattr(text, "arrow_patch")]
    assert len(set(lines)) == 3


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


def test_ingredients_name_what_a_row_changes_and_show_its_recovery():
    made = make([("npo", "gdr", "bf16"), ("npo", "gdr", "fp32")], settings=2, diverged=())
    made["recovery"]["unlearned"] = 50.0
    left, right, *_ = axes = drawn("ingredients", made).axes
    assert axes[-1].get_xlabel() == "recovery R of VerbMem, forget set (%)"
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names[0] == "centre: lr 1e-5, bf16" and len(names) == 4 and "lr 2e-5" in names
    assert "weights fp32, moments fp32" in names
    rows = made["recovery"]
    for scheme in SCHEMES[1:]:
        wanted = rows[(rows.scheme == scheme) & (rows.metric == "verbmem_f")].R * 100
        assert [x for x, _ in bars(right, f"_{scheme}")] == pytest.approx(sorted(wanted))


@pytest.mark.parametrize(
    ("settings", "called"),
    [
        ({"saliency": "module", "percentile": "50.0"}, "mask module P50"),
        ({"saliency": "none", "percentile": ""}, "mask none"),
        ({"saliency": "module", "percentile": None}, "mask module"),
    ],
)
def test_a_masks_name_holds_its_percentile(settings, called):
    assert ingredients.word("saliency", settings) == called


def test_recovery_by_width_plots_hidden_sizes():
    made = make([("npo", "gdr", "bf16")], corpora=("w1", "w2", "w3", "w3b"), diverged=())
    made["recovery"]["hidden"] = made["recovery"].corpus.map({"w1": "64", "w2": "128", "w3": "256", "w3b": "256"})
    axis = drawn("recovery_by_width", made).axes[0]
    rows = made["recovery"]
    for scheme in SCHEMES[1:]:
        wanted = list(100 * rows[(rows.scheme == scheme) & (rows.metric == "verbmem_f")].R)
        points = sorted((round(np.log2(x)), y) for x, y in bars(axis, f"_{scheme}"))
        assert [x for x, _ in points] == [6, 7, 8, 8]
        assert [y for _, y in points] == pytest.approx([*wanted[:2], *sorted(wanted[2:])])
        (line,) = [line for line in axis.lines if line.get_label() == f"_mean {scheme}"]
        assert list(line.get_ydata()) == pytest.approx([wanted[0], wanted[1], (wanted[2] + wanted[3]) / 2])


def test_recovery_by_width_shows_the_metric_that_most_models_have():
    made = make([("npo", "gdr", "bf16")], corpora=("w1", "w2", "w3"), diverged=())
    rows = made["recovery"]
    rows["hidden"] = rows.corpus.map({"w1": "64", "w2": "128", "w3": "256"})
    rows.loc[(rows.metric == "verbmem_f") & (rows.corpus != "w1"), "R"] = np.nan
    likely = rows[rows.metric == "knowmem_f"].assign(metric="ppl_f", kind="perplexity")
    rows.loc[(rows.metric == "knowmem_f") & (rows.corpus == "w2"), "R"] = np.nan
    assert drawn("recovery_by_width", made).axes[0].get_ylabel() == "recovery R of KnowMem (%)"
    made["recovery"] = pd.concat([rows, likely])
    axis = drawn("recovery_by_width", made).axes[0]
    assert axis.get_ylabel() == "recovery R of the forget set's likelihood (%)"
    wanted = likely[likely.scheme == "bnb_fp4"]
    assert [y for _, y in bars(axis, "_bnb_fp4")] == pytest.approx(list(100 * wanted.R))


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


def test_a_picked_checkpoint_enters_no_mean_and_no_line():
    """It is a second mark of a cell whose last checkpoint is there already."""
    made = make([("npo", "gdr", "bf16")], corpora=("w1", "w2"), diverged=())
    made["recovery"]["hidden"] = made["recovery"].corpus.map({"w1": "64", "w2": "128"})
    both = {name: pd.concat([made[name], made[name].assign(checkpoint=tables.STOPPED)]) for name in ("scores", "recovery")}
    both["scores"].loc[both["scores"].checkpoint == tables.STOPPED, "value"] += 5

    def lines(tables_):
        (line,) = [line for line in drawn("learning_rates", tables_).axes[0].lines if line.get_label() == "_mean full"]
        return list(line.get_ydata()), bars(drawn("recovery_by_width", tables_).axes[0], "_bnb_fp4")

    assert lines(both) == lines(made)
