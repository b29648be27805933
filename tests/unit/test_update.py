"""Ratios over nothing: layers that unlearning did not touch, and schemes that change nothing, are told by None and not by 0."""

import pytest
import torch

from scripts.core.weights import update


def of(before, after, rest):
    """Ratios where nothing is rounded."""
    held = (before, None, None), (after, None, None)
    return update.ratios(update.of_update(before, after), rest, update.of_scheme(before, after, *held))


def test_matrices_that_did_not_move_have_no_share_that_is_kept():
    """As under a mask that freezes all of a kind."""
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    found = of(weight, weight, {"d2": 0.0, "gd": None})
    nothing = {"survived", "projection", "noise", "snr", "kept", "noise_ratio", "first_order", "code_changed", "reach"}
    assert {name for name, value in found.items() if value is None} == nothing
    assert (found["changed"], found["value_changed"], found["relative_step"]) == (0, 0, 0)
    assert of(weight, weight, {"d2": 2.0, "gd": None})["kept"] == 1, "what is not quantized keeps its update whole"


def test_full_precision_keeps_everything_without_noise():
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    found = of(weight, weight + 0.5, {"d2": 1.0, "gd": None})
    assert (found["projection"], found["survived"], found["kept"], found["noise"]) == (1, 1, 1, 0)
    assert found["snr"] is None and found["noise_ratio"] is None


def test_reach_is_the_size_below_which_an_even_update_lies():
    before = torch.linspace(-0.5, 0.5, 1001)
    rest = {"d2": 1.0, "gd": None}
    assert of(before, before + 0.01, rest)["reach"] == pytest.approx(0.5, rel=1e-3)
    assert of(before, before + 0.01 * (before.abs() <= 0.125), rest)["reach"] == pytest.approx(0.125, rel=1e-2)
    twice = before + 0.01 * (before.abs() <= 0.125) + 0.02 * ((before.abs() > 0.125) & (before.abs() <= 0.25))
    assert of(before, twice, rest)["reach"] == pytest.approx(2 * (0.0625 + 2 * 0.1875) / 3, rel=1e-2), "by how far they moved"


def test_what_an_earlier_version_did_not_sum_up_is_none():
    held = (torch.ones(4), None, None), (torch.ones(4), None, None)
    old = {name: value for name, value in update.of_update(torch.ones(4), torch.zeros(4)).items() if name not in ("d1", "d1w")}
    summed = update.add([old], update.SUMS)
    scheme = update.of_scheme(torch.ones(4), torch.zeros(4), *held)
    assert update.ratios(summed, {"d2": 0.0, "gd": None}, scheme)["reach"] is None
