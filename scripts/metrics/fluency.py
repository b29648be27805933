"""Fluency: does the model still write varied text, or does it repeat itself?

Weighted n-gram entropy of open-ended text (Meng et al., ROME, arXiv 2202.05262, after Zhang et al., arXiv 1809.05972): for
n = 2 and 3, H_n = −Σ f log2 f over the relative frequencies f of a text's n-grams of words; a text's entropy is the mean of
2/3·H_2 and 4/3·H_3, that is H_2/3 + 2·H_3/3, in bits. `value` is the mean over texts ×100, as in published tables.

Words are runs of letters and digits, and single marks of punctuation: ROME's tokenizer needs data from a network. Only what the
model wrote is scored, not its prompt. Prompts are the beginnings of a split's raw texts. A text without n-grams has H_n = 0.
"""

import math
import re
from collections import Counter

from scripts.metrics import _length

PARAMETERS = {
    "split": {
        "type": "string",
        "enum": ["forget", "retain", "holdout"],
        "default": "retain",
        "description": "whose texts begin the prompts; retain is the split for evaluation (retain2)",
    },
    "prompts": {"type": "integer", "minimum": 1, "default": 100, "description": "prompts, at most: the split's first texts"},
    "prompt_tokens": {"type": "integer", "minimum": 1, "default": 16, "description": "tokens of a prompt"},
    "new_tokens": {"type": "integer", "minimum": 1, "default": 100, "description": "tokens that are generated and scored"},
    "temperature": {"type": "number", "minimum": 0, "default": 0, "description": "0 is greedy"},
    "seed": {"type": "integer", "minimum": 0, "default": 0, "description": "seed of sampling; greedy decoding has none"},
}
VERSION = 1
check = _length.check
FILES = {"forget": "forget", "retain": "retain2", "holdout": "holdout"}
WORD = re.compile(r"\w+|[^\w\s]")
WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def reads(settings: dict) -> list[str]:
    """The corpus's files that are read."""
    return [f"raw/{FILES[settings['split']]}"]


def ngram_entropy(words: list[str], n: int) -> float:
    """−Σ f log2 f over a text's n-grams, in bits; 0 where it has none."""
    counted = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    total = counted.total()
    return math.fsum(-c / total * math.log2(c / total) for c in counted.values())


def entropy(text: str) -> float:
    """The weighted 2- and 3-gram entropy of a text, in bits."""
    words = WORD.findall(text)
    return math.fsum(weight * ngram_entropy(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


def evaluate(engine, data, settings: dict) -> dict:
    """{"value": mean entropy ×100, "n", "mean", "samples": [{prompt, response, entropy}]} on a corpus's data folder."""
    from scripts.core.evaluation.engine import read_items, read_units

    name = f"raw/{FILES[settings['split']]}"
    texts = read_items(data, name, "fluency.split")
    units = read_units(data, name, texts)
    prompts = engine.cut(texts[: settings["prompts"]], settings["prompt_tokens"])
    responses = engine.generate(prompts, settings["new_tokens"], temperature=settings["temperature"], seed=settings["seed"])
    samples = [{"prompt": prompt, "response": response} for prompt, response in zip(prompts, responses, strict=True)]
    if units:
        samples = [sample | {"unit": unit} for sample, unit in zip(samples, units, strict=False)]  # of the first texts
    found = rescore({"samples": samples})
    return found | {"samples": [sample | made for sample, made in zip(samples, found["samples"], strict=True)]}


def rescore(content: dict) -> dict:
    """Entropies again from the recorded texts: {"samples", "value", "n", "mean"}."""
    samples = [{"entropy": entropy(sample["response"])} for sample in content["samples"]]
    mean = math.fsum(sample["entropy"] for sample in samples) / len(samples)
    return {"samples": samples, "value": 100 * mean, "n": len(samples), "mean": mean}
