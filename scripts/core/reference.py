"""What θ_0, the model before unlearning, says about the data.

The sequence log-probabilities of all forget chunks are computed once with the model itself before its first step, so
that NPO holds no second model. Only an objective that needs whole distributions ("model" among its NEEDS) pays for a
frozen copy.
"""

import copy
from contextlib import nullcontext

import torch

from scripts.core import losses

KNOWN = ("sequence_logprob", "model", "retain")  # "retain": a retain batch for the method itself; nothing is recorded


class Reference:
    """θ_0's answers for batches of the data set whose rows `batch["index"]` counts."""

    def __init__(self, logprobs=None, model=None):
        self._logprobs, self._model = logprobs, model

    @classmethod
    def of(cls, model, batches, needs, autocast=nullcontext, frozen=None, gather=None):
        """Record θ_0 = `model` as it is now.

        batches: iterable of forget batches that covers every row once (read only for "sequence_logprob"); tensors are
        moved to the model's device. needs: the union of the plugins' NEEDS. autocast: callable that returns the
        context the model computes in. frozen: a copy of θ_0 that is there already (one that ZeRO-3 has divided can't be
        copied). gather: where `batches` are those of one rank of several, the function that concatenates tensors of all ranks,
        which then give equally many rows. Raises ValueError for an unknown need.
        """
        unknown = sorted(set(needs) - set(KNOWN))
        if unknown:
            raise ValueError(f"NEEDS: unknown {unknown[0]!r}; known: {', '.join(KNOWN)}")
        logprobs = None
        if "sequence_logprob" in needs:
            logprobs = cls._record(model if frozen is None else frozen, batches, autocast, gather or (lambda tensor: tensor))
        if "model" not in needs:
            frozen = None
        elif frozen is None:
            frozen = copy.deepcopy(model).eval().requires_grad_(False)
        return cls(logprobs, frozen)

    @staticmethod
    @torch.no_grad()
    def _record(model, batches, autocast, gather):
        device, rows, values = next(model.parameters()).device, [], []
        training = model.training
        model.eval()
        for batch in batches:
            batch = {key: value.to(device) for key, value in batch.items()}
            with autocast():
                values.append(losses.sequence_logprob(losses.forward(model, batch), batch))
            rows.append(batch["index"])
        model.train(training)
        rows, values = gather(torch.cat(rows)), gather(torch.cat(values))
        table = torch.full((int(rows.max()) + 1,), torch.nan, device=device)
        table[rows] = values
        return table

    def sequence_logprob(self, batch) -> torch.Tensor:
        """(B,) log p_θ0 of the batch's sequences in nats, looked up by `batch["index"]`."""
        if self._logprobs is None:
            raise RuntimeError('reference log-probabilities were not recorded: add "sequence_logprob" to NEEDS')
        return self._logprobs[batch["index"]]

    @property
    def model(self):
        """The frozen copy of θ_0."""
        if self._model is None:
            raise RuntimeError('no frozen reference model is held: add "model" to NEEDS')
        return self._model

    @torch.no_grad()
    def logits(self, batch) -> torch.Tensor:
        """(B, T, V) logits of θ_0 from the frozen copy."""
        return losses.forward(self.model, batch)
