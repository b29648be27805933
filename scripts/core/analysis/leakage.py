"""PrivLeak of a sweep's scores: how much better a membership attack does on a model than on the retrain model.

PrivLeak = (AUC(unlearned) − AUC(retrain)) / AUC(retrain), AUC of Min-40 % between forget and holdout texts; retrain
  at full precision. The scores of the texts are those of metrics/privleak.py, which cites the source.
"""

import numpy as np

from scripts.core.analysis import scored, statistics
from scripts.core.analysis.scored import Score


def add_privleak(scores: list[Score]) -> None:
    """Fill in PrivLeak, in place: it needs the retrain run's own file (same corpus, full precision, same texts)."""
    retrain = {
        (score.row["corpus"], score.row["metric"]): score
        for score in scores
        if score.row["method"] == "retrain" and score.row["scheme"] == "full"
    }
    known = {
        key: (statistics.auc(*score.texts), statistics.auc_replicates(*score.texts, score.units))
        for key, score in retrain.items()
        if score.texts
    }
    for score in scores:
        row, texts = score.row, score.texts
        if row["kind"] != "privleak" or not texts:
            continue
        key = row["corpus"], row["metric"]
        if key not in known:
            reason = retrain[key].row["reason"] if key in retrain else "not there"
            row |= scored.state("missing", f"PrivLeak needs the retrain run at full precision: {reason}")
            continue
        theirs = retrain[key]
        if [len(part) for part in texts] != [len(part) for part in theirs.texts] or score.units != theirs.units:
            row |= scored.state("missing", "PrivLeak: the retrain run was scored on other texts")
            continue
        bottom, bottom_replicates = known[key]
        top, top_replicates = statistics.auc(*texts), statistics.auc_replicates(*texts, score.units)
        value, _, _, reason = statistics.ratio(top, bottom, top_replicates, bottom_replicates, "AUC(retrain)")
        if value is None:
            row |= scored.state("not finite", reason)
            continue
        score.value, row["value"] = value - 1, 100 * (value - 1)
        if min(len(set(part)) if score.units else len(part) for part in score.units or texts) < 2:
            row["reason"] = f"no interval: one {'unit' if score.units else 'sample'} of forget or of holdout texts"
            continue
        usable = np.where(bottom_replicates > statistics.EPS, bottom_replicates, np.nan)
        score.replicates = top_replicates / usable - 1
