"""Intervals against a bootstrap written out with loops, AUCs against scikit-learn, and values known by hand."""

import numpy as np
import pytest

from scripts.core.analysis import statistics


def test_mean_replicates_are_means_of_the_drawn_samples():
    scores = np.random.default_rng(0).random(13)
    drawn = statistics.counts(13)
    by_hand = [np.mean([score for score, times in zip(scores, row, strict=True) for _ in range(times)]) for row in drawn[:50]]
    assert np.allclose(statistics.mean_replicates(scores)[:50], by_hand)
    assert (drawn.sum(1) == 13).all() and len(drawn) == statistics.RESAMPLES


def test_interval_agrees_with_a_bootstrap_by_loops():
    generator = np.random.default_rng(1)
    scores = generator.random(40)
    means = [np.mean([scores[generator.integers(40)] for _ in range(40)]) for _ in range(4000)]
    low, high = statistics.interval(statistics.mean_replicates(scores))
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.012)
    # the textbook's width for a mean: 2 · 1.96 · s/√n
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / 40**0.5, rel=0.08)


def test_blocks_change_nothing(monkeypatch):
    scores = np.random.default_rng(2).random(30)
    whole = statistics.mean_replicates(scores)
    for block in (700, 10):  # the second is less than one resample
        monkeypatch.setattr(statistics, "BLOCK", block)
        assert np.allclose(statistics.mean_replicates(scores), whole, atol=1e-12)


def test_auc_by_hand_and_as_scikit_learn_has_it():
    from sklearn.metrics import roc_auc_score

    assert statistics.auc([1, 2, 3], [2, 4]) == pytest.approx((0 + 0 + 0.5 + 0 + 1 + 0) / 6)
    generator = np.random.default_rng(3)
    forget, holdout = generator.integers(0, 9, 31), generator.integers(2, 12, 17)
    expected = roc_auc_score([1] * 31 + [0] * 17, [*forget, *holdout])
    assert statistics.auc(forget, holdout) == pytest.approx(expected, abs=1e-12)


def test_auc_replicates_are_aucs_of_the_drawn_texts():
    generator = np.random.default_rng(4)
    forget, holdout = generator.random(9), generator.random(7) + 0.2
    replicates = statistics.auc_replicates(forget, holdout)
    left, right = statistics.counts(9, 0), statistics.counts(7, 1)
    for b in range(20):
        assert replicates[b] == pytest.approx(statistics.auc(np.repeat(forget, left[b]), np.repeat(holdout, right[b])), abs=1e-12)
    # forget and holdout of equal number are drawn apart from each other
    assert (statistics.counts(9, 0) != statistics.counts(9, 1)).any()


def test_pool_draws_seeds_and_shares_the_draw_of_samples():
    scores = np.random.default_rng(5).random((3, 20))
    pooled = statistics.pool([statistics.mean_replicates(row) for row in scores])
    samples, seeds = statistics.counts(20), statistics.counts(3, 2)
    for b in range(20):
        drawn = [np.repeat(row, samples[b]).mean() for row, times in zip(scores, seeds[b], strict=True) for _ in range(times)]
        assert pooled[b] == pytest.approx(np.mean(drawn), abs=1e-12)


def test_pooling_equal_seeds_is_no_more_certain_than_one():
    one = statistics.mean_replicates(np.random.default_rng(6).random(20))
    assert statistics.interval(statistics.pool([one, one, one])) == pytest.approx(statistics.interval(one))


def test_ratio_is_paired():
    below = statistics.mean_replicates(np.random.default_rng(7).random(25))
    value, low, high, reason = statistics.ratio(0.5, 1.0, 0.5 * below, below)
    assert (value, reason) == (0.5, "") and (low, high) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("below", "replicates", "words"),
    [
        (0.0, np.full(100, 0.0), "is 0.0, not positive"),
        (-0.2, np.full(100, -0.2), "is -20.0, not positive"),
        (0.1, np.linspace(-0.1, 0.3, 100), "holds 0 (-9.0 to 29.0)"),
        (1e-12, np.full(100, 1e-12), "is 0.0, not positive"),  # what rounding leaves of 0
        (0.1, np.full(100, 1e-12), "holds 0 (0.0 to 0.0)"),
    ],
)
def test_ratio_without_a_positive_denominator_is_undefined(below, replicates, words):
    value, low, high, reason = statistics.ratio(0.1, below, np.full(100, 0.1), replicates, "the target's score")
    assert value is low is high is None
    assert reason.startswith("undefined") and "the target's score" in reason and words in reason


def test_interval_of_nothing_is_nan():
    assert np.isnan(statistics.interval([np.nan, np.nan])).all()


def test_a_denominator_in_nats_has_three_digits():
    reasons = [statistics.ratio(1, below, np.ones(9), np.full(9, -0.0625), "it", unit=1)[3] for below in (-0.0625, 1)]
    assert reasons == ["undefined: it is -0.062, not positive", "undefined: the interval of it holds 0 (-0.062 to -0.062)"]


def test_few_replicates_without_a_ratio_leave_the_interval_to_the_others():
    below = np.full(100, 2.0)
    below[:2] = 0.0, -1.0
    above = np.linspace(1, 3, 100)
    value, low, high, reason = statistics.ratio(4.0, 2.0, above, below)
    assert (value, reason) == (2.0, "") and (low, high) == pytest.approx(tuple(np.percentile(above[2:] / 2, [2.5, 97.5])))


def test_draws_that_all_share_can_not_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        statistics.counts(5)[0, 0] = 7
