"""Log-probabilities of the tokens of many texts: one pass and one transfer per batch.

log p(token) is its logit minus the log-sum-exp of its position, formed in fp32 for a few positions at a time; a full
softmax of the batch, vocabulary × positions in fp32, is never made. Texts are padded on the right, where a causal model
needs neither positions of its own nor a mask: what comes later is not looked at. On a CPU batches are small, so that a layer's
activations stay in its cache (the demo's model: a third less time than with 32,768 tokens). Batching changes results through
rounding only (see scripts.core.evaluation.generation).
"""

import numpy as np
import torch

from scripts.core.evaluation.generation import NotFinite, in_batches

LOGITS_BYTES = 2**30  # logits of a batch in the model's own type
CHUNK = 2**22  # logits that are turned into fp32 at once
CPU_TOKENS = 1024  # of a batch on a CPU


@torch.inference_mode()
def token_logprobs(model, texts: list[list[int]], batch_tokens: int = 8192, pad: int = 0, progress=None) -> list[np.ndarray]:
    """For each tokenized text of length T, in order, (max(T − 1, 0),) float32 log p(token t | tokens before), t = 1…T − 1.

    progress(count) is called with each batch's size. Raises NotFinite where the model gives NaN or infinity.
    """
    found = [np.zeros(0, dtype=np.float32) for _ in texts]
    scored = [i for i, ids in enumerate(texts) if len(ids) > 1]
    vocabulary = model.get_output_embeddings().weight.shape[0] if scored else 1
    budget = min(batch_tokens, max(1, LOGITS_BYTES // (vocabulary * model.dtype.itemsize)))
    if model.device.type == "cpu":
        budget = min(budget, CPU_TOKENS)

    def work(group):
        rows = [scored[k] for k in group]
        width = max(len(texts[i]) for i in rows)
        ids = torch.full((len(rows), width), pad)
        for row, i in enumerate(rows):
            ids[row, : len(texts[i])] = torch.tensor(texts[i])
        ids = ids.to(model.device)
        values = _gather(model(input_ids=ids, use_cache=False).logits, ids).cpu().numpy()
        for row, i in enumerate(rows):
            found[i] = values[row, : len(texts[i]) - 1].copy()
            if not np.isfinite(found[i]).all():
                raise NotFinite(f"log-probabilities of text {i} are not finite")

    in_batches(work, [len(texts[i]) for i in scored], 0, budget, progress)
    return found


def _gather(logits, ids):
    """(B, T) fp32 log-probabilities under `logits` (B, T, V) of what follows each of `ids` (B, T); a row's last has no meaning."""
    flat, targets = logits.reshape(-1, logits.shape[-1]), ids.roll(-1, 1).reshape(-1, 1)
    result = torch.empty(len(flat), dtype=torch.float32, device=logits.device)
    size = max(1, CHUNK // logits.shape[-1])
    for start in range(0, len(flat), size):
        own = slice(start, start + size)
        wide = flat[own].float()
        result[own] = wide.gather(1, targets[own])[:, 0] - wide.logsumexp(1)
    return result.view(ids.shape)
