"""Batched generation that gives what one prompt at a time gives, in a fraction of the time.

Prompts are sorted by length and put into left-padded batches of a token budget. What all prompts begin with (the
in-context examples of KnowMem) is run through the model once, and its keys and values start every batch. Keys and
values live in buffers of the final length, so that a step appends instead of copying. A row that has met EOS or a stop
string leaves the batch.

Results do not depend on batching except through floating-point rounding: a matrix product of another shape may differ
in its last bits. In fp32 that has never been seen to change a token; in bf16 on a GPU it may, where two tokens are as
good as tied. Of the schemes, bitsandbytes' int8 is an exception by design: which columns it treats as outliers depends
on everything in the batch. `share_prefix=False` and `batch_tokens=1` turn all of it off.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from scripts.core.evaluation import padding

SHORTEST_PREFIX = 8  # a shorter common beginning is not worth a pass of its own
LEAVE_AT = 0.75  # finished rows leave when at most this share of a batch is still writing: leaving copies the buffers

# cuDNN's attention, which torch takes on new GPUs since 2.11, gives NaN for a row that sees nothing: padding on the left, where
# transformers makes the mask (lm-eval, models with windows). torch's other kernels give 0.
torch.backends.cuda.enable_cudnn_sdp(False)


class NotFinite(ArithmeticError):
    """The model gave NaN or infinity: it has no score, which is not the score 0."""


class Room(DynamicLayer):
    """A cache layer with room for `capacity` positions, taken at once; keys and values (B, heads, ≤ capacity, size)."""

    def __init__(self, capacity: int, start=None, rows: int = 0):
        super().__init__()
        self.capacity = capacity
        if start is not None:
            self.update(*(part.expand(rows, -1, -1, -1) for part in start))

    def update(self, key_states, value_states, *args, **kwargs):
        """Append (B, heads, T, size) keys and values; returns all so far, views of the buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = [new.new_empty(*new.shape[:2], self.capacity, new.shape[3]) for new in (key_states, value_states)]
            self.used = 0
        end = self.used + key_states.shape[2]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, self.used : end] = new
        self.used = end
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices):
        """Keep the rows `indices` only."""
        self.buffers = [buffer[indices] for buffer in self.buffers]
        self.keys, self.values = (buffer[:, :, : self.used] for buffer in self.buffers)


def batches(lengths: list[int], new_tokens: int, batch_tokens: int) -> list[list[int]]:
    """Indices in batches, longest first; rows × (longest + new tokens) stays within the budget, or a batch is one row."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    found = []
    while order:
        size = max(1, batch_tokens // max(1, lengths[order[0]] + new_tokens))
        found.append(order[:size])
        order = order[size:]
    return found


def in_batches(work, lengths: list[int], new_tokens: int, batch_tokens: int, progress=None) -> None:
    """Call work(rows) for all rows, in `batches`; where a GPU has no room for a batch, from there on with half as many at a time.

    progress(count) is called with each batch's size. Raises OutOfMemoryError where there is no room for one row.
    """
    left = batches(lengths, new_tokens, batch_tokens)
    while left:
        rows = left[0]
        if not has_room(lambda rows=rows: work(rows), len(rows)):
            others, tokens = [i for group in left for i in group], len(rows) // 2 * (lengths[rows[0]] + new_tokens)
            left = [[others[k] for k in group] for group in batches([lengths[i] for i in others], new_tokens, tokens)]
            continue
        del left[0]
        if progress:
            progress(len(rows))


def has_room(work, count: int) -> bool:
    """Call work(), which reads `count` texts at a time; whether it found room. OutOfMemoryError where one text does not."""
    try:
        work()
        return True
    except torch.OutOfMemoryError as error:
        if count == 1:
            raise
        line = str(error).strip().split("\n", 1)[0]
        print(f"{count} texts at a time: {line}; going on with {count // 2}", file=sys.stderr)
    torch.cuda.empty_cache()  # here, where nothing holds the pass that failed
    return False


def common_prefix(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with, short of each prompt's last token; 0 if too few to matter."""
    first, last = min(prompts), max(prompts)
    length = min(min(map(len, prompts)) - 1, len(first))
    same = next((i for i in range(length) if first[i] != last[i]), length)
    return same if len(prompts) > 1 and same >= SHORTEST_PREFIX else 0


def stop_ids(model, tokenizer) -> set[int]:
    """Token ids that end a text: what `model.generate` ends at, else the tokenizer's EOS."""
    ids = model.generation_config.eos_token_id if getattr(model, "generation_config", None) else None
    ids = tokenizer.eos_token_id if ids is None else ids
    return set() if ids is None else set(ids) if isinstance(ids, list | tuple) else {int(ids)}


def check_length(prompts: list[list[int]], new_tokens: int, positions: int | None) -> None:
    """ValueError when a prompt and its continuation do not fit into the model's positions, or a prompt is empty."""
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {i}: has no token; allowed: at least one (the tokenizer adds no BOS)")
        if positions and len(prompt) + new_tokens > positions:
            raise ValueError(
                f"prompt {i}: {len(prompt)} tokens do not fit; allowed: at most {max(0, positions - new_tokens)}, "
                f"the model's {positions} positions minus {new_tokens} new tokens"
            )


def draws(seed: int, index: int, count: int) -> np.ndarray:
    """(count,) uniform numbers in [0, 1) of one example: a function of seed and index alone."""
    return np.random.default_rng([seed, index]).random(count)


def _fits(model) -> bool:
    """Whether all layers keep plain keys and values (no sliding window, no recurrent state)."""
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"]
    return set(kinds) == {"full_attention"} and not getattr(model.config, "sliding_window", None)


@torch.inference_mode()
def generate(
    model,
    prompts: list[list[int]],
    new_tokens: int,
    ends: set[int] = frozenset(),
    stopped=None,
    temperature: float = 0.0,
    seed: int = 0,
    batch_tokens: int = 8192,
    share_prefix: bool = True,
    progress=None,
) -> list[list[int]]:
    """Continuations of tokenized prompts, in their order: at most `new_tokens` ids each, without the one that ended it.

    ends: ids that end a text. stopped: function of a list of continuations so far (list of ids each) → which of them
    hold a stop string; those rows end with the token that completed it. temperature 0 is greedy; above it, tokens are
    drawn by inverse transform from softmax(logits / temperature) with one stream of numbers per example, so a sample
    depends on (seed, index), not on its batch. progress(count) is called with each batch's size.
    Raises ValueError for a prompt that is too long, NotFinite for logits that are NaN or infinite.
    """
    check_length(prompts, new_tokens, getattr(model.config, "max_position_embeddings", None))
    found = [[] for _ in prompts]
    if not prompts or not new_tokens:
        return found
    plain = _fits(model)
    shared = common_prefix(prompts) if share_prefix and plain else 0
    start = _prefix(model, prompts[0][:shared]) if shared else None
    task = _Task(prompts, new_tokens, ends, stopped, temperature, seed, plain, shared, start)

    def work(rows):
        for i in rows:
            found[i].clear()  # what an attempt has left that found no room
        _run(model, task, rows, found)

    in_batches(work, [len(prompt) for prompt in prompts], new_tokens, batch_tokens, progress)
    return found


def _prefix(model, ids: list[int]) -> list:
    """[(keys, values)] of each layer for the common beginning, (1, heads, length, size)."""
    cache = DynamicCache()
    model(input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return [(layer.keys, layer.values) for layer in cache.layers]


@dataclass(frozen=True)
class _Task:
    """What `generate` was asked for, and what all its batches share.

    plain: see `_fits`. shared: how many tokens all prompts begin with; start: their keys and values by layer, None without any.
    """

    prompts: list[list[int]]
    new_tokens: int
    ends: set[int]
    stopped: Callable | None
    temperature: float
    seed: int
    plain: bool
    shared: int
    start: list | None


def _run(model, task: _Task, rows: list[int], found: list[list[int]]) -> None:
    """Generate one batch (indices `rows` of the prompts) into `found`."""
    rests = [task.prompts[i][task.shared :] for i in rows]
    ids, mask = (part.to(model.device) for part in padding.left_padded(rests, task.shared, task.new_tokens))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, uniform = _cache(model, task, *mask.shape), _uniform(model, task, rows)
    # One new token looks at all that is not padding; in this form the mask need not be made anew in each layer and step.
    seen = mask[:, None, None].bool() if task.plain and model.config._attn_implementation == "sdpa" else mask
    begin, end, rows, writing = task.shared, task.shared + ids.shape[1], list(rows), [True] * len(rows)
    first = mask[:, :end]
    if seen.ndim == 4 and not begin and min(map(len, rests)) < end:
        first = padding.first_look(first)
    for step in range(task.new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=seen[..., :end] if step else first,
            position_ids=positions[:, begin:end],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        top, chosen = logits.max(-1)  # NaN is the maximum of what holds it
        if uniform is not None:
            chosen = _sample(logits, task.temperature, uniform[:, step])
        told = torch.stack([chosen, torch.isfinite(top).long()]).tolist()  # the step's one transfer
        _append(task, rows, writing, found, step, *told)
        if not any(writing):
            return
        ids = chosen[:, None]
        if sum(writing) <= LEAVE_AT * len(rows):
            keep = [row for row in range(len(rows)) if writing[row]]
            rows, writing = [rows[row] for row in keep], [True] * len(keep)
            index = torch.tensor(keep, device=model.device)
            cache.batch_select_indices(index)
            ids, seen, positions = ids[index], seen[index], positions[index]
            uniform = None if uniform is None else uniform[index]
        begin, end = end, end + 1


def _cache(model, task: _Task, count: int, capacity: int) -> Cache:
    """An empty cache for `count` rows of at most `capacity` positions, or one that holds their common beginning."""
    if not task.plain:
        return DynamicCache(config=model.config)
    layers = range(model.config.num_hidden_layers)
    return Cache(layers=[Room(capacity, task.start[k] if task.start else None, count) for k in layers])


def _uniform(model, task: _Task, rows: list[int]) -> torch.Tensor | None:
    """(B, new tokens) uniform numbers in [0, 1), by which tokens are drawn; None where they are not drawn."""
    if task.temperature <= 0:
        return None
    return torch.from_numpy(np.stack([draws(task.seed, i, task.new_tokens) for i in rows])).to(model.device)


def _append(task: _Task, rows, writing: list[bool], found, step: int, tokens: list[int], finite: list[int]) -> None:
    """Add a step's tokens to `found` for the rows that are still `writing`, which those that end are no longer."""
    for row in [row for row in range(len(rows)) if writing[row]]:
        if not finite[row]:
            raise NotFinite(f"logits of prompt {rows[row]} are not finite at new token {step}")
        if tokens[row] in task.ends:
            writing[row] = False
        else:
            found[rows[row]].append(tokens[row])
    live = [row for row in range(len(rows)) if writing[row]]
    if task.stopped and live:
        for row, full in zip(live, task.stopped([found[rows[row]] for row in live]), strict=True):
            writing[row] = not full


def _sample(logits, temperature: float, uniform):
    """(B,) token ids: the first whose cumulative probability exceeds the row's number in [0, 1)."""
    cumulative = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    # Scaled by the last value, which rounding leaves a little off 1.
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
