"""Bootstrap intervals, made so that everything that is compared is resampled together.

A resample is a row of counts: how often each of n samples was drawn. Counts depend on (n, stream) alone, so all runs
and schemes that answered the same n questions get the same draws; differences and ratios of two replicates are
therefore paired without any bookkeeping. A mean's replicates are then one matrix product, an AUC's a bilinear form,
and a pool of seeds a weighted sum of replicates.

Where samples say to which unit they belong (a person, an article), units are drawn, each with all its samples (the cluster
bootstrap: Davison & Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8): samples of one unit don't vary
independently of each other. A resample's mean is then Σ / Σ over the units drawn.

Intervals are percentile intervals (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, ch. 13). They say
how far the scores would move with other questions of the same kind; with one seed they say nothing of another
training run.
"""

from functools import lru_cache

import numpy as np

RESAMPLES = 2000
SEED = 20250123
LEVEL = 0.95
EPS = 1e-9
BLOCK = 4_000_000  # counts that are turned into floats at once


@lru_cache(maxsize=32)
def counts(n: int, stream: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """(resamples, n) counts of n draws with replacement from n samples; the same for every call with the same arguments.

    `stream` tells apart things that are drawn independently: 0 samples (forget texts), 1 holdout texts, 2 seeds, 3 the runs
    of a fit (scripts/predict.py).
    """
    generator = np.random.default_rng([SEED, stream, n])
    drawn = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
    drawn = drawn.astype(np.uint8)  # of n draws from n none comes near 256
    drawn.setflags(write=False)
    return drawn


def mean_replicates(scores, weights=None, units=None) -> np.ndarray:
    """(resamples,) bootstrap means of `scores` (n,), in the scores' own unit; with `weights` (n,) Σwx/Σw of each resample.

    units: to which unit each score belongs (n,), where units are drawn instead of scores.
    """
    scores = np.asarray(scores, dtype=float)
    if weights is None and units is None:
        return sum_replicates(scores) / len(scores)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=float)
    return sum_replicates(weights * scores, units) / sum_replicates(weights, units)


def places(units) -> np.ndarray:
    """(n,) number of each sample's unit; units are numbered as they first appear, so that equal lists are drawn alike."""
    numbers = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
    return np.array([numbers[unit] for unit in units])


def sum_replicates(values: np.ndarray, units=None) -> np.ndarray:
    """(resamples,) bootstrap sums of `values` (n,), of which units are drawn where `units` (n,) are given."""
    if units is not None:
        values = np.bincount(places(units), weights=values)
    drawn, step = counts(len(values)), max(1, BLOCK // len(values))
    return np.concatenate([drawn[i : i + step].astype(float) @ values for i in range(0, len(drawn), step)])


def wins(forget, holdout) -> np.ndarray:
    """(n_forget, n_holdout): 1 where the forget text's score is the larger, ½ for ties. Its mean is the AUC (Mann & Whitney)."""
    forget, holdout = np.asarray(forget, dtype=float)[:, None], np.asarray(holdout, dtype=float)[None, :]
    return (forget > holdout) + 0.5 * (forget == holdout)


def auc(forget, holdout) -> float:
    """Area under the ROC curve of telling forget (positive) from holdout texts by their scores; 0…1."""
    return float(wins(forget, holdout).mean())


def auc_replicates(forget, holdout, units=None) -> np.ndarray:
    """(resamples,) AUCs; forget and holdout texts are resampled independently of each other.

    units: (of forget texts, of holdout texts), where these are drawn instead of texts.
    """
    table = wins(forget, holdout)
    left, right = (times(n, stream, units and units[stream]) for stream, n in enumerate(table.shape))
    return ((left @ table) * right).sum(1) / (left.sum(1) * right.sum(1))


def times(n: int, stream: int, units=None) -> np.ndarray:
    """(resamples, n) how often each of n samples is in a resample, drawn by itself or with its unit."""
    if units is None:
        return counts(n, stream).astype(float)
    index = places(units)
    return counts(index.max() + 1, stream)[:, index].astype(float)


def pool(replicates) -> np.ndarray:
    """(resamples,) replicates of the mean over seeds, from one row of replicates per seed (seeds, resamples).

    Hierarchical bootstrap: seeds are drawn first, then samples (or units). Within a resample all seeds share the draw of samples,
    because all seeds answered the same questions; resampling them per seed would average the questions' spread away.
    """
    replicates = np.asarray(replicates, dtype=float)
    drawn = counts(len(replicates), 2, replicates.shape[1]).astype(float)
    return np.einsum("bs,sb->b", drawn, replicates) / len(replicates)


def interval(replicates) -> tuple[float, float]:
    """Percentile interval of `replicates` at LEVEL; those that are NaN (an undefined ratio) are left out."""
    tail = 50 * (1 - LEVEL)
    kept = np.asarray(replicates, dtype=float)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.percentile(kept, [tail, 100 - tail])
    return float(low), float(high)


def ratio(above: float, below: float, above_replicates, below_replicates, name: str = "the denominator", unit: float = 100):
    """(value, low, high, reason) of above / below, paired; value, low and high are None where the ratio means nothing.

    It means nothing where the denominator is not clearly positive: at most EPS, or with an interval that reaches EPS. The few
    replicates (less than 2.5 %) whose denominator is not positive are left out of an interval. The reason tells the denominator
    times `unit`.
    """
    below_replicates = np.asarray(below_replicates, dtype=float)
    digits = 1 if unit == 100 else 3
    if not below > EPS:
        return None, None, None, f"undefined: {name} is {unit * below:.{digits}f}, not positive"
    low, high = interval(below_replicates)
    if not low > EPS:
        bounds = f"{unit * low:.{digits}f} to {unit * high:.{digits}f}"
        return None, None, None, f"undefined: the interval of {name} holds 0 ({bounds})"
    safe = np.where(below_replicates > EPS, below_replicates, np.nan)
    return above / below, *interval(np.asarray(above_replicates, dtype=float) / safe), ""
