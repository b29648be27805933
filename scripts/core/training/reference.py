"""What θ_0, the model before unlearning, says about the data.

The sequence log-probabilities of all forget chunks are computed once with the model itself before its first step, so that NPO holds
no second model. Whole distributions (KLR) are kept in one of these ways, training.reference; all but topk are exact:

  resident   a frozen copy of the model on the device: one more model in memory, one more forward pass in each step
  offloaded  the same copy in the host's memory, its weights brought to the device layer by layer: slow, no device memory
  cached     the states before the output head on disk, and a copy of the head (scripts/core/training/distributions.py)
  topk       the reference_k most likely tokens and the mass of the others: approximate
  auto       cached on a CPU, where it has the same bits as resident (looked at), is small and pays; else resident
"""

import copy
from contextlib import nullcontext

import torch

from scripts.core.planning.contracts import NEEDS
from scripts.core.training import losses

KINDS = ("auto", "resident", "offloaded", "cached", "topk")
# What asks for more of θ_0 than its log-probabilities; "retain", a batch for the method itself, asks for nothing.
ASKED = {"distribution", "logits", "model"}


class Reference:
    """θ_0's answers for batches of the data set whose rows `batch["index"]` counts. facts: how it is kept, for the record."""

    def __init__(self, logprobs=None, model=None, table=None, facts=None):
        self._logprobs, self._model, self._table, self.facts = logprobs, model, table, facts or {}

    @classmethod
    def of(cls, model, batches, needs, *, autocast=nullcontext, frozen=None, gather=None, kind="resident", table=None):
        """Record θ_0 = `model` as it is now. ValueError for an unknown need, and for a kind that can't serve it.

        batches   iterable of forget batches that covers every row once (read only for "sequence_logprob"); tensors are moved to
                  the model's device
        needs     the union of the plugins' NEEDS
        autocast  callable that returns the context in which the model computes
        frozen    a copy of θ_0 that is there already (one that ZeRO-3 has divided can't be copied)
        gather    where `batches` are those of one rank of several: the function that concatenates tensors of all ranks, which
                  then give equally many rows
        kind      how distributions are kept, see above
        table     for the kinds that keep a table: a TablePlan of the rows that will be asked about
        """
        unknown = sorted(set(needs) - set(NEEDS))
        if unknown:
            raise ValueError(f"NEEDS: unknown {unknown[0]!r}; known: {', '.join(NEEDS)}")
        logprobs = None
        if "sequence_logprob" in needs:
            logprobs = cls._record(model if frozen is None else frozen, batches, autocast, gather or (lambda tensor: tensor))
        if not ASKED & set(needs):
            return cls(logprobs)
        serves(kind, needs)
        kept = None
        if kind in ("cached", "topk"):
            kept = table.record(kind, model, autocast)
        elif kind == "auto" and table and "model" not in needs:
            kept = table.repeating(model, autocast)
        if kept:
            return cls(logprobs, table=kept, facts={"reference": "topk" if kind == "topk" else "cached", **kept.facts})
        if frozen is None:
            frozen = copy.deepcopy(model).eval().requires_grad_(False)
        if kind == "offloaded":
            from accelerate import cpu_offload

            frozen = cpu_offload(frozen, execution_device=next(model.parameters()).device, offload_buffers=True)
        return cls(logprobs, frozen, facts={"reference": "offloaded" if kind == "offloaded" else "resident"})

    @staticmethod
    @torch.no_grad()
    def _record(model, batches, autocast, gather):
        device, rows, values = next(model.parameters()).device, [], []
        with losses.evaluating(model):
            for batch in batches:
                batch = {key: value.to(device) for key, value in batch.items()}
                with autocast():
                    values.append(losses.sequence_logprob(losses.forward(model, batch), batch))
                rows.append(batch["index"])
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
        """(B, T, V) logits of θ_0; with reference "topk" log-probabilities whose tail is even."""
        return self._table.logits(batch) if self._table else losses.forward(self.model, batch)


def serves(kind: str, needs) -> None:
    """ValueError unless a kind of reference gives all that is needed."""
    if kind not in KINDS:
        raise ValueError(f"training.reference: {kind!r} is not allowed; allowed: {', '.join(KINDS)}")
    if kind in ("cached", "topk") and "model" in needs:
        what, allowed = "the whole model", "auto, resident, offloaded"
    elif kind == "topk" and "logits" in needs:
        what, allowed = "raw logits", "auto, resident, offloaded, cached"
    else:
        return
    raise ValueError(f"training.reference: {kind!r} is not allowed where {what} of θ_0 is read; allowed: {allowed}")
