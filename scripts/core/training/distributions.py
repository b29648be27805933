"""θ_0's distributions over the next token, kept without a second model that trains beside the first.

Hidden   exact: the states that go into the output head, on disk, and a copy of the head. A state is `hidden` numbers per token
         where logits are `vocabulary` numbers, and one matrix product gives the logits back. The same bits as a resident model's
         wherever a matrix product gives a row the same bits in any batch (on the CPUs seen it does; `repeats` looks), else
         within rounding.
TopK     approximate: the k most likely tokens of each position with their log-probabilities; the mass r0 of the others is
         spread evenly. Each token's gradient with respect to the logits, p − p_θ0, is then off by at most 2·r0 in sum of
         absolute values, as only the tail of p_θ0 differs and has mass r0 on both sides. `left_out` tells r0.

Both are recorded by the model itself before its first step. Tables are memory-mapped files without a name: they go with the
process.
"""

import copy
import os
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from scripts.core.training import losses

BUDGET = 2**30  # bytes of a table that is made unasked


def mapped(folder, shape: tuple, dtype) -> torch.Tensor:
    """A tensor in a file of `folder` that has no name any more. OSError when the disk has no room for it."""
    count = torch.Size(shape).numel()
    os.makedirs(folder, exist_ok=True)
    handle, path = tempfile.mkstemp(prefix=".reference-", dir=folder)
    try:
        os.posix_fallocate(handle, 0, max(1, count * dtype.itemsize))  # a full disk has to say so now, not by a fault later
        return torch.from_file(path, shared=True, size=count, dtype=dtype).view(shape)
    finally:
        os.close(handle)
        os.unlink(path)


def states(model, batch):
    """(what goes into the output head (B, T, hidden), logits (B, T, V)) of a batch."""
    seen = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        logits = losses.forward(model, batch)
    finally:
        hook.remove()
    return seen[0], logits


class Table:
    """Recorded rows of the splits of a data set: {split: LongTensor (N, T)}. A batch is found by its rows' index and content."""

    def __init__(self, splits: dict):
        self.splits = splits

    def place(self, batch) -> tuple:
        """(split, index on the CPU) of a batch. RuntimeError when its rows were not recorded."""
        index, ids = batch["index"].cpu(), batch["input_ids"].cpu()
        for split, rows in self.splits.items():
            if int(index.max()) < len(rows) and torch.equal(rows[index], ids):
                return split, index
        raise RuntimeError("the reference was asked about rows that it has not recorded")

    @classmethod
    @torch.no_grad()
    def record(cls, model, splits: dict, batch: int, folder, autocast=nullcontext, **more):
        """Record θ_0 = `model` on all rows of `splits`, in batches as large as training's."""
        table = cls(splits, **more)
        with losses.evaluating(model):
            for split, rows in splits.items():
                for index in torch.arange(len(rows)).split(batch):
                    with autocast():
                        table.write(model, split, index, cls.batch(model, rows, index), folder)
        return table

    @staticmethod
    def batch(model, rows, index) -> dict:
        """A batch of rows as training has it."""
        ids = rows[index].to(next(model.parameters()).device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "index": index}


class Hidden(Table):
    """The exact table: states before the output head, see above."""

    facts = {}

    def __init__(self, splits):
        super().__init__(splits)
        self.head, self.tables = None, {}

    @staticmethod
    def bytes(model, splits) -> int:
        """Bytes of the table's files, at most."""
        tokens = sum(rows.numel() for rows in splits.values())
        return tokens * model.get_output_embeddings().weight.shape[1] * 4

    def write(self, model, split, index, batch, folder):
        """Record a batch. ValueError for a model whose logits are not what its head says."""
        found, logits = states(model, batch)
        if self.head is None:
            self.head = copy.deepcopy(model.get_output_embeddings()).requires_grad_(False)
            if not torch.equal(self.head(found), logits):
                raise ValueError(
                    "training.reference: 'cached' can't hold this model, whose logits are not the output of its head; "
                    "allowed: resident, offloaded"
                )
        if split not in self.tables:
            self.tables[split] = mapped(folder, (*self.splits[split].shape, found.shape[-1]), found.dtype)
        self.tables[split][index] = found.cpu()

    @torch.no_grad()
    def repeats(self, model, batch: int, autocast=nullcontext) -> bool:
        """Whether rows have the same bits in other batches than those they were recorded in (a sample of three)."""
        with losses.evaluating(model):
            for split, rows in self.splits.items():
                others = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
                for index in (others[:batch], others[-batch:], others[: len(rows) % batch or 1]):
                    with autocast():
                        found, _ = states(model, self.batch(model, rows, index))
                    if not torch.equal(found.cpu(), self.tables[split][index]):
                        return False
        return True

    @torch.no_grad()
    def logits(self, batch) -> torch.Tensor:
        """(B, T, V) logits of θ_0."""
        split, index = self.place(batch)
        return self.head(self.tables[split][index].to(batch["input_ids"].device))


class TopK(Table):
    """The approximate table: the k most likely tokens, see above. left_out: (mean, largest) mass that is not among them."""

    def __init__(self, splits, k: int):
        super().__init__(splits)
        self.k, self.vocabulary, self.values, self.tokens = k, None, {}, {}
        self._sum, self._most = 0.0, 0.0

    @property
    def left_out(self) -> tuple:
        """Mean and largest r0 over all recorded positions."""
        return self._sum / sum(rows.numel() for rows in self.splits.values()), self._most

    @property
    def facts(self) -> dict:
        """For the record."""
        return {"reference_k": self.k, "reference_left_out": list(self.left_out)}

    def write(self, model, split, index, batch, folder):
        """Record a batch."""
        logits = losses.forward(model, batch)
        self.vocabulary = logits.shape[-1]
        kept = min(self.k, self.vocabulary)
        if split not in self.values:
            shape = (*self.splits[split].shape, kept)
            self.values[split], self.tokens[split] = mapped(folder, shape, torch.float32), mapped(folder, shape, torch.int32)
        for row, own in zip(index, logits, strict=True):  # one row at a time: no float32 copy of the batch's logits
            wide = own.float()
            values, tokens = (wide - wide.logsumexp(-1, keepdim=True)).topk(kept, dim=-1)
            self.values[split][row], self.tokens[split][row] = values.cpu(), tokens.int().cpu()
            outside = self._outside(values)
            self._sum, self._most = self._sum + outside.sum().item(), max(self._most, outside.max().item())

    def _outside(self, values):
        """(…, ) mass of the tokens that are not among the k; 0 where all are."""
        if values.shape[-1] == self.vocabulary:
            return values.new_zeros(values.shape[:-1])
        return (1 - values.double().exp().sum(-1)).clamp(min=0).float()

    @torch.no_grad()
    def logits(self, batch) -> torch.Tensor:
        """(B, T, V) float32 log-probabilities: θ_0's for the k tokens, all others alike."""
        split, index = self.place(batch)
        device = batch["input_ids"].device
        values, tokens = self.values[split][index].to(device), self.tokens[split][index].to(device).long()
        rest = max(1, self.vocabulary - values.shape[-1])
        tail = (self._outside(values) / rest).log()
        return tail[..., None].repeat(1, 1, self.vocabulary).scatter_(-1, tokens, values)


@dataclass
class TablePlan:
    """What a table will be asked about. splits: {name: LongTensor (N, T)}; batch: rows of a training step; folder: of the files;
    uses: how often training reads a row; k: how many tokens "topk" keeps."""

    splits: dict
    batch: int
    folder: str
    uses: float
    k: int = 64

    def record(self, kind: str, model, autocast=nullcontext) -> Table:
        """The table of θ_0 = `model`, "cached" or "topk". ValueError when it can't be made."""
        try:
            if kind == "cached":
                return Hidden.record(model, self.splits, self.batch, self.folder, autocast)
            return TopK.record(model, self.splits, self.batch, self.folder, autocast, k=self.k)
        except OSError as error:
            room = f"finds no room on the disk ({error})"
            raise ValueError(f"training.reference: {kind!r} {room}; allowed: resident, offloaded") from None

    def repeating(self, model, autocast=nullcontext) -> Table | None:
        """A table with the bits of a resident model's logits; None where there is none (GPUs are not tried), or it does not pay."""
        if next(model.parameters()).device.type != "cpu" or self.uses < 2 or Hidden.bytes(model, self.splits) > BUDGET:
            return None
        try:
            table = self.record("cached", model, autocast)
        except ValueError:
            return None
        return table if table.repeats(model, self.batch, autocast) else None
