"""VerbMem: does the model go on with a passage word for word?

The prompt is a passage's beginning; the continuation of `new_tokens` tokens is compared with the true one, cut to as
many tokens, by ROUGE-L F1 (MUSE, Shi et al., arXiv 2407.06460). MUSE decodes greedily; Zhang et al. (arXiv 2410.16454)
sample at temperature 0.9, which `temperature` gives with a seed per example (from all tokens; transformers, which they call,
had a top_k of 50 by default).
"""

from scripts.core.evaluation import rouge
from scripts.metrics import _length

PARAMETERS = {
    "split": {"type": "string", "enum": ["forget", "retain"], "default": "forget", "description": "whose passages"},
    "new_tokens": {
        "type": "integer",
        "minimum": 1,
        "default": 128,
        "description": "tokens that are generated and compared",
    },
    "temperature": {
        "type": "number",
        "minimum": 0,
        "default": 0,
        "description": "0 is greedy; the published code has 0.9",
    },
    "seed": {
        "type": "integer",
        "minimum": 0,
        "default": 0,
        "description": "seed of sampling; greedy decoding has none",
    },
}
VERSION = 1
RECOVERED = True
check, rescore = _length.check, rouge.rescore


def reads(settings: dict) -> list[str]:
    """The corpus's files that are read."""
    return [f"verbmem/{settings['split']}"]


def evaluate(engine, data, settings: dict) -> dict:
    """{"value": mean ROUGE-L F1 ×100, "n", "mean", "samples": [{prompt, gt, response, rougeL, …}]} on a corpus's data folder."""
    from scripts.core.evaluation.engine import read_items, unit_of

    items = read_items(data, f"verbmem/{settings['split']}", "verbmem.split")
    tokens = settings["new_tokens"]
    prompts = [item["prompt"] for item in items]
    truths = engine.cut([item["gt"] for item in items], tokens)
    responses = engine.generate(prompts, tokens, temperature=settings["temperature"], seed=settings["seed"])
    samples = [
        {"prompt": item["prompt"], "gt": truth, "response": response, **unit_of(item), **rouge.score(truth, response)}
        for item, truth, response in zip(items, truths, responses, strict=True)
    ]
    return {"samples": samples, **rouge.summary(samples)}
