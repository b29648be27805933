"""Perplexity: how surprised is the model, per token, by the forget set's text, the retain set's, or held-out text?

Perplexity = exp(NLL), NLL = −(1/N) Σ log p(token | tokens before it in its window), in nats, over all N tokens that are
scored. `text: raw` joins a split's texts with blank lines, as training does, and cuts them into windows of BOS and
max_tokens − 1 tokens; the last window is as long as what is left, so that each token counts once. On the forget set this
is the loss that unlearning raises. `text: privleak` scores PrivLeak's passages, cut to max_tokens.

Where the corpus says whom its texts are about (units/raw), a window also has its NLL by unit, as intervals are over units and a
window may hold several. A token belongs to the text in which it begins, the tokens of a blank line to the text before it, BOS is
not scored: so each scored token belongs to one unit, and their sums make up the value.

`value` is the perplexity itself, not ×100: it has no upper end. Lower means better known. Recovery is formed from NLLs
(scripts.aggregate), of which a loss is a difference and a perplexity is not.
"""

import math
from bisect import bisect_right
from itertools import accumulate, islice

PARAMETERS = {
    "split": {
        "type": "string",
        "enum": ["forget", "retain", "holdout"],
        "default": "forget",
        "description": "whose text; retain is what training reads (retain1)",
    },
    "text": {
        "type": "string",
        "enum": ["raw", "privleak"],
        "default": "raw",
        "description": "raw text in windows, or PrivLeak's passages",
    },
    "max_tokens": {
        "type": ["integer", "null"],
        "minimum": 2,
        "default": None,
        "corpus": "max_length",  # where a null is filled in from
        "description": "tokens of a window, BOS included, at most the model's positions; null: the corpus's max_length",
    },
}
VERSION = 1
RECOVERED = True
FILES = {"forget": "forget", "retain": "retain1", "holdout": "holdout"}
SHOWN = 80  # characters of a window that are recorded


def source(settings: dict) -> str:
    """The corpus's file of what is scored."""
    return f"privleak/{settings['split']}" if settings["text"] == "privleak" else f"raw/{FILES[settings['split']]}"


def reads(settings: dict) -> list[str]:
    """The corpus's files that are read."""
    return [source(settings)]


def windows(engine, data, settings: dict) -> list[list[int]]:
    """Token ids of what is scored, each list with its context in front (BOS, where the tokenizer has one)."""
    from scripts.core.evaluation.engine import read_items
    from scripts.core.training.batching import SEPARATOR

    length = min((n for n in (settings["max_tokens"], engine.positions) if n), default=None)
    if length is None:
        raise ValueError("perplexity.max_tokens: null, and neither corpus nor model has a length; allowed: an integer ≥ 2")
    texts = read_items(data, source(settings), "perplexity.split")
    if settings["text"] == "privleak":
        return [ids[:length] for ids in engine.encode(texts)]
    (stream,), bos = engine.encode([SEPARATOR.join(texts)], special=False), engine.bos
    step = length - len(bos)
    return [bos + stream[i : i + step] for i in range(0, len(stream), step)]


def owners(engine, data, settings: dict, cut: list[list[int]]) -> list[list[str]] | None:
    """The unit of each token of the windows `cut`, BOS left out; None where the corpus names no units, or the tokenizer can't tell
    where in the text its tokens begin.
    """
    from scripts.core.evaluation.engine import read_items, read_units
    from scripts.core.training.batching import SEPARATOR

    texts = read_items(data, source(settings), "perplexity.split")
    units = read_units(data, source(settings), texts)
    if units is None:
        return None
    if settings["text"] == "privleak":
        return [[unit] * len(ids) for unit, ids in zip(units, cut, strict=True)]
    starts = engine.starts(SEPARATOR.join(texts))
    if starts is None:
        return None
    begins = list(accumulate((len(text) + len(SEPARATOR) for text in texts[:-1]), initial=0))
    stream = (units[bisect_right(begins, at) - 1] for at in starts)
    return [list(islice(stream, len(ids) - len(engine.bos))) for ids in cut]


def parts(nll, units: list[str]) -> list[dict]:
    """[{"unit", "tokens", "nll"}] of one window: the mean of `nll` (T,), −log p of its last T tokens, over each unit's tokens."""
    found = {}
    for value, unit in zip(nll, units[-len(nll) :], strict=True):
        found.setdefault(unit, []).append(float(value))
    return [{"unit": unit, "tokens": len(own), "nll": math.fsum(own) / len(own)} for unit, own in found.items()]


def evaluate(engine, data, settings: dict) -> dict:
    """{"value": perplexity, "n": windows, "mean": NLL in nats, "tokens": scored tokens, "samples"} on a corpus's data folder.

    samples: [{"index", "text", "tokens", "nll"}]; nll is the mean over the window's `tokens` scored tokens, text its first
    characters; where units are known also "parts", the same for each unit in it. Windows without a token to score are left out.
    """
    from scripts.core.evaluation.generation import NotFinite

    cut = windows(engine, data, settings)
    owned = owners(engine, data, settings, cut)
    starts = engine.decode([ids[:SHOWN] for ids in cut])
    samples = [
        {"index": i, "text": start[:SHOWN], "tokens": len(found), "nll": float(-found.astype(float).mean())}
        | ({"parts": parts(-found, own)} if owned else {})
        for i, (start, found, own) in enumerate(zip(starts, engine.token_logprobs(cut), owned or cut, strict=True))
        if len(found)
    ]
    if not samples:
        raise ValueError(f"perplexity.split: {settings['split']!r} has no token to score; allowed: texts that are not empty")
    try:
        return rescore({"samples": samples}) | {"samples": samples}
    except OverflowError as error:
        raise NotFinite("the perplexity is larger than a number can be") from error


def rescore(content: dict) -> dict:
    """{"value", "n", "mean", "tokens"} again from the recorded NLLs of windows; where windows have parts also {"samples"}:
    their tokens and NLLs again from those.
    """
    samples = content["samples"]
    tokens = sum(sample["tokens"] for sample in samples)
    mean = math.fsum(sample["nll"] * sample["tokens"] for sample in samples) / tokens
    found = {"value": math.exp(mean), "n": len(samples), "mean": mean, "tokens": tokens}
    if "parts" in samples[0]:  # then in all
        found["samples"] = [whole(sample["parts"]) for sample in samples]
    return found


def whole(own: list[dict]) -> dict:
    """{"tokens", "nll"} of a window from its parts."""
    tokens = sum(part["tokens"] for part in own)
    return {"tokens": tokens, "nll": math.fsum(part["nll"] * part["tokens"] for part in own) / tokens}
