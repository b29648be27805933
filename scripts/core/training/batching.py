"""Text to training batches: fixed-length chunks, and forget chunks paired with retain chunks.

Training reads a corpus as one stream of tokens cut into chunks of equal length, so no position is padding and every
loss is a mean or a sum over the same number of tokens. A chunk is BOS followed by max_length − 1 tokens of the stream
(the setting of Zhang et al., arXiv 2410.16454, with max_length 2048).
"""

import torch
from torch.utils.data import Dataset

SEPARATOR = "\n\n"


def chunks(texts: list[str], tokenizer, max_length: int) -> torch.Tensor:
    """Cut texts into a LongTensor (N, max_length) of token ids, each row BOS + max_length − 1 tokens.

    The texts are joined with a blank line into one stream. Where the stream ends inside the last row, that row is
    filled by rotating: it goes on with the stream's own beginning, as often as needed for a corpus shorter than one
    row. Raises ValueError for no text, a tokenizer without BOS, or max_length below 2.
    """
    if not isinstance(max_length, int) or max_length < 2:
        raise ValueError(f"max_length: {max_length!r} is not allowed; allowed: an integer of at least 2 (BOS and a token)")
    if tokenizer.bos_token_id is None:
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise ValueError(f"tokenizer: {name!r} has no BOS token; allowed: a tokenizer whose bos_token is set")
    if isinstance(texts, str) or not any(texts):
        raise ValueError(f"texts: {texts!r} is not allowed; allowed: a list of strings, at least one of them not empty")
    stream = tokenizer(SEPARATOR.join(texts), add_special_tokens=False, verbose=False)["input_ids"]
    if not stream:
        raise ValueError("texts: no token comes out of the tokenizer; allowed: texts of at least one token")
    stream = torch.tensor(stream, dtype=torch.long)
    width = max_length - 1
    rows = -(-len(stream) // width)
    body = stream[torch.arange(rows * width) % len(stream)].view(rows, width)
    return torch.cat([torch.full((rows, 1), tokenizer.bos_token_id, dtype=torch.long), body], dim=1)


def _item(row: torch.Tensor) -> dict:
    """One chunk (T,) as the inputs of a causal language model; nothing is padded, so labels are the tokens."""
    return {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row.clone()}


class TextDataset(Dataset):
    """Chunks (N, T) for plain language-model training: item i is {input_ids, attention_mask, labels}, each (T,)."""

    def __init__(self, rows: torch.Tensor):
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"rows: shape {tuple(rows.shape)} is not allowed; allowed: (N, T) with at least one chunk")
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict:
        return _item(self.rows[i])


class ForgetRetainDataset(Dataset):
    """Forget chunk i with retain chunk i mod n: item i is {"forget": batch parts, "retain": batch parts or None}.

    Each part holds input_ids, attention_mask and labels, (T,) each, and index, the chunk's row number (a scalar).
    `retain` may be None for objectives without a regularizer.
    """

    def __init__(self, forget: torch.Tensor, retain: torch.Tensor | None = None):
        self.forget = TextDataset(forget)
        self.retain = None if retain is None else TextDataset(retain)

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, i: int) -> dict:
        parts = {"forget": self.forget[i] | {"index": torch.tensor(i)}, "retain": None}
        if self.retain is not None:
            j = i % len(self.retain)
            parts["retain"] = self.retain[j] | {"index": torch.tensor(j)}
        return parts


def collate(items: list):
    """Stack the items of either dataset: tensors (T,) become (B, T), scalars (B,); an absent retain part stays None."""
    first = items[0]
    if first is None:
        return None
    if isinstance(first, torch.Tensor):
        return torch.stack(items)
    return {key: collate([item[key] for item in items]) for key in first}
