"""PrivLeak: can one tell from log-probabilities that the model was trained on the forget texts?

Each text gets scores that are low for texts the model knows (MUSE, Shi et al., arXiv 2407.06460):

  PPL        mean of −log p over its tokens (the log of the perplexity, under MUSE's name)
  PPL/lower  the same, divided by that of the text in lower case
  PPL/zlib   the same, divided by the bytes of the text compressed by zlib
  Min-K%     mean of −log p over the K % least likely tokens, at least one (Shi et al., arXiv 2310.16789)

AUC forget_holdout_S = probability that a forget text has a higher S than a holdout text, ties half: near 0 for a model
that remembers, 0.5 for one that never read either. PrivLeak = (AUC − AUC of the retrained model) / the latter: it needs
a second model and is formed by scripts.aggregate. `value` here is AUC ×100 for Min-40 %.
"""

import zlib

PARAMETERS = {
    "max_tokens": {
        "type": "integer",
        "minimum": 2,
        "default": 2048,
        "description": "texts are cut to this many tokens, BOS included, and to the model's positions",
    },
}
VERSION = 1
PERCENT = (5, 10, 20, 30, 40, 50, 60)
SPLITS = ("forget", "retain", "holdout")
PAIRS = (("forget", "retain"), ("forget", "holdout"))
REPORTED = "forget_holdout_Min-40%"


def reads(settings: dict) -> list[str]:
    """The corpus's files that are read."""
    return [f"privleak/{split}" for split in SPLITS]


def auc(first, second) -> float:
    """Probability that a score of `first` is higher than one of `second`, ties counting half: the area under the ROC
    curve of telling `second` by low scores; 0…1.

    The trapezoids are summed as scikit-learn's roc_auc_score(label = second, −score) sums them, so that AUCs recorded
    by MUSE's code come out to the last bit. ValueError when either list is empty or holds what is not finite.
    """
    import numpy as np

    scores = np.concatenate([np.asarray(part, dtype=float) for part in (first, second)])
    if not len(first) or not len(second) or not np.isfinite(scores).all():
        raise ValueError("auc: scores are empty or not finite; allowed: at least one finite score on either side")
    order = np.argsort(scores, kind="stable")
    labels = np.repeat([0.0, 1.0], [len(first), len(second)])[order]
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of ties
    hits = np.cumsum(labels)[last]
    misses = 1 + last - hits
    if len(hits) > 2:  # points on a straight line are left out, as scikit-learn does
        corner = np.concatenate([[True], np.logical_or(np.diff(misses, 2), np.diff(hits, 2)), [True]])
        hits, misses = hits[corner], misses[corner]
    hits, misses = np.append(0, hits) / len(second), np.append(0, misses) / len(first)
    return float(np.trapezoid(hits, misses))


def text_scores(logprobs, lower, text: str) -> dict[str, float]:
    """Scores of one text from the log-probabilities (T,) of its tokens and of those of its lower-case form."""
    import numpy as np

    values = np.sort(np.asarray(logprobs, dtype=float))
    loss = -values.mean()
    lowered = -np.asarray(lower, dtype=float).mean()
    scores = {
        "PPL": loss,
        "PPL/lower": loss / lowered if lowered else np.nan,
        "PPL/zlib": loss / len(zlib.compress(text.encode())),
    }
    scores |= {f"Min-{k}%": -values[: max(1, len(values) * k // 100)].mean() for k in PERCENT}
    return {name: float(value) for name, value in scores.items()}


def evaluate(engine, data, settings: dict) -> dict:
    """{"value": AUC ×100, "n": forget texts, "auc": {pair_score: 0…1}, "samples"} on a corpus's data folder.

    samples: {split: {"index": […], "text": […], "tokens": […], and a list per score}}; index is the text's row in the
    corpus, text its first 80 characters; "unit": […] where the corpus says whom texts are about. Texts without a token to
    score are left out.
    """
    from scripts.core.evaluation.engine import read_items, read_units
    from scripts.core.evaluation.generation import NotFinite

    texts = {split: read_items(data, f"privleak/{split}", "privleak") for split in SPLITS}
    flat = [text for split in SPLITS for text in texts[split]]
    found = engine.logprobs(flat + [text.lower() for text in flat], settings["max_tokens"])
    pairs = list(zip(flat, found[: len(flat)], found[len(flat) :], strict=True))
    samples = {}
    for split in SPLITS:
        ours, pairs = pairs[: len(texts[split])], pairs[len(texts[split]) :]
        kept = [(i, *one) for i, one in enumerate(ours) if len(one[1]) and len(one[2])]
        scores = [text_scores(logprobs, lower, text) for _, text, logprobs, lower in kept]
        if not scores:
            raise ValueError(f"privleak: no text of {split} has a token to score; allowed: texts that are not empty")
        samples[split] = {
            "index": [i for i, *_ in kept],
            "text": [text[:80] for _, text, *_ in kept],
            "tokens": [len(logprobs) for _, _, logprobs, _ in kept],
        }
        if units := read_units(data, f"privleak/{split}", texts[split]):
            samples[split]["unit"] = [units[i] for i, *_ in kept]
        samples[split] |= {name: [one[name] for one in scores] for name in scores[0]}
    try:
        return {"samples": samples, **rescore({"samples": samples})}
    except ValueError as error:
        raise NotFinite(str(error)) from error


def rescore(content: dict) -> dict:
    """{"auc", "value", "n", "mean": the AUC of `value`} again from the recorded scores of texts.

    These are under `samples`, or `scores` in a file of MUSE's form. A pair of splits that only the record has (e.g.
    retain_holdout) is recomputed as well.
    """
    scores = content["scores"] if "scores" in content else content["samples"]
    names = [name for name in scores["forget"] if name.startswith(("PPL", "Min-"))]
    wanted = [(f"{one}_{two}_{name}", one, two, name) for one, two in PAIRS for name in names]
    for key in content.get("auc", {}):
        one, two, name = key.split("_", 2)
        wanted.append((key, one, two, name))
    found = {key: auc(scores[one][name], scores[two][name]) for key, one, two, name in wanted}
    mean = found[REPORTED]
    return {"auc": found, "value": 100 * mean, "n": len(scores["forget"]["Min-40%"]), "mean": mean}
