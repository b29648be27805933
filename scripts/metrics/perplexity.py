"""Perplexity: how surprised is the model, per token, by the forget set's text, the retain set's, or held-out text?

Perplexity = exp(NLL), NLL = −(1/N) Σ log p(token | tokens before it in its window), in nats, over all N tokens that are
scored. `text: raw` joins a split's texts with blank lines, as training does, and cuts them into windows of BOS and
max_tokens − 1 tokens; the last window is as long as what is left, so that each token counts once. On the forget set this
is the loss that unlearning raises. `text: privleak` scores PrivLeak's passages, cut to max_tokens.

`value` is the perplexity itself, not ×100: it has no upper end. Lower means better known. Recovery is formed from NLLs
(scripts.aggregate), of which a loss is a difference and a perplexity is not.
"""

import math

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


def windows(engine, data, settings: dict) -> list[list[int]]:
    """Token ids of what is scored, each list with its context in front (BOS, where the tokenizer has one)."""
    from scripts.core.batching import SEPARATOR
    from scripts.core.engine import read_items

    split, length = settings["split"], min((n for n in (settings["max_tokens"], engine.positions) if n), default=None)
    if length is None:
        raise ValueError("perplexity.max_tokens: null, and neither corpus nor model has a length; allowed: an integer ≥ 2")
    if settings["text"] == "privleak":
        return [ids[:length] for ids in engine.encode(read_items(data, f"privleak/{split}", "perplexity.split"))]
    texts = read_items(data, f"raw/{FILES[split]}", "perplexity.split")
    (stream,), bos = engine.encode([SEPARATOR.join(texts)], special=False), engine.bos
    step = length - len(bos)
    return [bos + stream[i : i + step] for i in range(0, len(stream), step)]


def evaluate(engine, data, settings: dict) -> dict:
    """{"value": perplexity, "n": windows, "mean": NLL in nats, "tokens": scored tokens, "samples"} on a corpus's data folder.

    samples: [{"index", "text", "tokens", "nll"}]; nll is the mean over the window's `tokens` scored tokens, text its first
    characters. Windows without a token to score are left out.
    """
    from scripts.core.generation import NotFinite

    cut = windows(engine, data, settings)
    starts = engine.decode([ids[:SHOWN] for ids in cut])
    samples = [
        {"index": i, "text": start[:SHOWN], "tokens": len(found), "nll": float(-found.astype(float).mean())}
        for i, (start, found) in enumerate(zip(starts, engine.token_logprobs(cut), strict=True))
        if len(found)
    ]
    if not samples:
        raise ValueError(f"perplexity.split: {settings['split']!r} has no token to score; allowed: texts that are not empty")
    try:
        return {"samples": samples, **rescore({"samples": samples})}
    except OverflowError as error:
        raise NotFinite("the perplexity is larger than a number can be") from error


def rescore(content: dict) -> dict:
    """{"value", "n", "mean", "tokens"} again from the recorded NLLs of windows."""
    samples = content["samples"]
    tokens = sum(sample["tokens"] for sample in samples)
    mean = math.fsum(sample["nll"] * sample["tokens"] for sample in samples) / tokens
    return {"value": math.exp(mean), "n": len(samples), "mean": mean, "tokens": tokens}
