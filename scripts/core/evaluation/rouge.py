"""ROUGE-1 and ROUGE-L of two texts, equal to the last bit to the package rouge_score without stemming, and quicker.

Every evaluation and every rescoring needs these four numbers for thousands of pairs. rouge_score takes seconds to be
imported (it loads nltk) and fills a table of all pairs of words for the longest common subsequence (LCS); here the LCS
is read from the bits of one integer (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004). The tests compare
the two.
"""

import re
from collections import Counter

KEYS = ("rougeL", "rougeL_recall", "rouge1", "rouge1_recall")
WORD = re.compile("[a-z0-9]+")


def words(text: str) -> list[str]:
    """Lower-case runs of ASCII letters and digits, which are the words of ROUGE."""
    return WORD.findall(text.lower())


def common_subsequence(first: list, second: list) -> int:
    """Length of the longest common subsequence of two lists."""
    places = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    ones = (1 << len(first)) - 1
    row = ones  # a zero bit marks each place of `first` where the LCS grows by one
    for word in second:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & ones
    return len(first) - row.bit_count()


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def score(truth: str, response: str) -> dict[str, float]:
    """{"rougeL": F1, "rougeL_recall", "rouge1": F1, "rouge1_recall"} of a response, each in 0…1; 0 where a text has no
    words.
    """
    ours, theirs = words(response), words(truth)
    if not ours or not theirs:
        return dict.fromkeys(KEYS, 0.0)
    found = {}
    for name, shared in (
        ("rougeL", common_subsequence(theirs, ours)),
        ("rouge1", (Counter(ours) & Counter(theirs)).total()),
    ):
        precision, recall = shared / len(ours), shared / len(theirs)
        found |= {name: _f1(precision, recall), f"{name}_recall": recall}
    return found


def summary(samples: list[dict]) -> dict:
    """Aggregates of scored samples: {"value": mean ROUGE-L F1 ×100, "n", "mean": {key: mean in 0…1}}; at least one sample."""
    mean = {key: sum(sample[key] for sample in samples) / len(samples) for key in KEYS}
    return {"value": 100 * mean["rougeL"], "n": len(samples), "mean": mean}


def rescore(content: dict) -> dict:
    """`samples`' scores from their texts `gt` and `response`, and the aggregates of `summary`, as if nothing were recorded."""
    samples = [score(sample["gt"], sample["response"]) for sample in content["samples"]]
    return {"samples": samples, **summary(samples)}
