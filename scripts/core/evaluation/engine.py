"""What a metric asks of a model: texts for prompts, and log-probabilities of texts.

Metrics see this one object, so batching, caches and devices are settled in one place. torch is imported when a model is
asked, not before: metrics are also imported to rescore files, without a model.
"""

from pathlib import Path

from scripts.core import progress
from scripts.core.storage import read_json


class Engine:
    """A model with its tokenizer, ready to be scored.

    batch_tokens: tokens of a batch (prompt and continuation); share_prefix: run a common beginning of prompts once.
    """

    facts = {}  # what metric files tell of an engine that is not this one

    def __init__(self, model, tokenizer, batch_tokens: int = 8192, share_prefix: bool = True, quiet: bool = False):
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens, self.share_prefix, self.quiet = batch_tokens, share_prefix, quiet

    @property
    def positions(self) -> int | None:
        """The model's longest input in tokens, where its config tells."""
        return getattr(self.model.config, "max_position_embeddings", None)

    def encode(self, texts: list[str], special: bool = True) -> list[list[int]]:
        """Token ids of each text; with `special`, what the tokenizer puts around a text (BOS)."""
        return self.tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"] if texts else []

    def starts(self, text: str) -> list[int] | None:
        """The character at which each of a text's tokens begins, special tokens left out; None from a tokenizer that can't tell."""
        if not self.tokenizer.is_fast:
            return None
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [start for start, _ in found["offset_mapping"]]

    @property
    def bos(self) -> list[int]:
        """The token that begins a text, as a list; empty where the tokenizer has none."""
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Texts of token ids, without special tokens."""
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def cut(self, texts: list[str], tokens: int) -> list[str]:
        """Texts cut to at most `tokens` tokens each."""
        return self.decode([ids[:tokens] for ids in self.encode(texts, special=False)])

    def generate(self, prompts: list[str], new_tokens: int, stop=(), temperature: float = 0.0, seed: int = 0) -> list[str]:
        """The continuation of each prompt, cut at the first of the stop strings; see generation.generate."""
        from scripts.core.evaluation import generation

        def stopped(continuations):
            return [any(word in text for word in stop) for text in self.decode(continuations)]

        with progress.bar(len(prompts), "text", "generation", quiet=self.quiet) as bar:
            ids = generation.generate(
                self.model,
                self.encode(prompts),
                new_tokens,
                ends=generation.stop_ids(self.model, self.tokenizer),
                stopped=stopped if stop else None,
                temperature=temperature,
                seed=seed,
                batch_tokens=self.batch_tokens,
                share_prefix=self.share_prefix,
                progress=bar.update,
            )
        return [before(text, stop) for text in self.decode(ids)]

    def logprobs(self, texts: list[str], max_tokens: int | None = None) -> list:
        """Log-probabilities of each text's tokens after its first, as float32 arrays; see scripts.core.evaluation.logprob.

        Texts are cut to max_tokens tokens (BOS included), and to the model's positions.
        """
        limit = min((n for n in (max_tokens, self.positions) if n), default=None)
        return self.token_logprobs([one[:limit] for one in self.encode(texts)])

    def token_logprobs(self, ids: list[list[int]]) -> list:
        """The same for texts that are token ids already, none longer than the model's positions."""
        from scripts.core.evaluation.logprob import token_logprobs

        pad = self.tokenizer.pad_token_id or 0
        with progress.bar(len(ids), "text", "log-probabilities", quiet=self.quiet) as bar:
            return token_logprobs(self.model, ids, self.batch_tokens, pad, bar.update)


def before(text: str, stop) -> str:
    """What stands before the first of the stop strings."""
    for word in stop:
        text = text.split(word, 1)[0]
    return text


def read_items(data, name: str, key: str) -> list:
    """The list in <data>/<name>.json; ValueError with the setting `key` that asked for it when it is missing or empty."""
    path = Path(data) / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"{key}: needs {name}.json, which the corpus does not have; allowed: a split that it has")
    items = read_json(path)
    if not isinstance(items, list) or not items:
        raise ValueError(f"{key}: {name}.json of the corpus is empty or no list; allowed: a list with at least one entry")
    return items


def read_units(data, name: str, texts: list) -> list[str] | None:
    """The unit (person, article, …) of each of the texts in <data>/<name>.json; None where the corpus names none.

    ValueError where it names more or fewer than there are texts.
    """
    path = Path(data) / "units" / f"{name}.json"
    if not path.is_file():
        return None
    units = read_json(path)
    if not isinstance(units, list) or len(units) != len(texts):
        raise ValueError(f"units/{name}.json: is no list of {len(texts)}; allowed: one unit for each text of {name}.json")
    return units


def unit_of(item: dict) -> dict:
    """{"unit": …} of a corpus's item, for the sample that is made of it; empty where the item names none."""
    return {"unit": item["unit"]} if "unit" in item else {}
