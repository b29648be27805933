"""Figures of masks, weights, predictions and costs draw what the tables say; data are read back from the artists."""

import numpy as np
import pandas as pd
import pytest

from scripts.figures import recovery_by_edge
from tests.unit.figure_tables import MADE, bars, drawn, make, words


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


def test_recovery_by_edge_sets_the_innermost_code_against_what_moved():
    made = make([("npo", "gdr", "bf16"), ("npo", "gdr", "fp32")], diverged=(), settings=2)
    figure = drawn("recovery_by_edge", made)
    rows, edges = made["recovery"], {"bnb_fp4": 0.5, "rtn_int4_tensor": 0.25}
    for weights, reach in (("bf16", 0.125), ("fp32", 4)):
        for scheme, edge in edges.items():
            own = rows[(rows.weights == weights) & (rows.scheme == scheme) & (rows.metric == "verbmem_f")]
            wanted = [(edge / reach, 100 * row.R) for row in own.itertuples()]
            assert len(wanted) == 2 and np.allclose(sorted(bars(figure.axes[0], f"_{scheme} {weights}")), sorted(wanted))
    assert not [one for one in figure.axes[0].containers if "full" in one.get_label()]
    without = made | {"mechanism": made["mechanism"].assign(edge=np.nan)}
    assert "no unlearned model with a recovery" in words(drawn("recovery_by_edge", without))[0].get_text()


def test_recovery_by_edge_says_whose_reach_an_earlier_version_did_not_measure():
    made = make([("npo", "gdr", "bf16"), ("npo", "gdr", "fp32")], diverged=())
    table = made["mechanism"]
    half = made | {"mechanism": table.assign(reach=table.reach.where(table.weights == "bf16"))}
    said = " ".join(text.get_text() for text in words(drawn("recovery_by_edge", half)))
    assert "No reach: people/npo_gdr/lr1e-5_fp32" in said.replace("\n", "") and said.count("No reach") == 1
    none = words(drawn("recovery_by_edge", made | {"mechanism": table.assign(reach=np.nan)}))[0].get_text()
    assert none.replace("\n", " ").startswith("Nothing to draw yet: No reach: people/npo_gdr")


def test_a_model_s_place_is_the_mean_of_its_seeds():
    table = make([("npo", "gdr", "bf16")], diverged=())["mechanism"]
    found = recovery_by_edge.places(pd.concat([table, table.assign(run="other", seed="1", reach=0.25)]))
    assert {scheme: value for (_, scheme), value in found.items()} == {"full": 6, "bnb_fp4": 3, "rtn_int4_tensor": 1.5}


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
