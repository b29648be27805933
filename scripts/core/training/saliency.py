"""SURE: which weights the forget loss is sensitive to, and training of those alone.

s_i = ‖∇_{θ_i} L_forget(θ_0)‖, the gradient taken over the whole forget set (the mean over its chunks), with L_forget the
loss of the run's method. What lies at or above a percentile of all s_i is trained. A θ_i is, by kind:

  module     a weight tensor; the others are frozen: no gradient, no optimiser state
  row-fixed  a row of a weight tensor (an element of a vector, as a norm's); chosen once
  row-step   the same, chosen anew in each step from that step's forget gradient

Source: Zhang et al. 2025 (arXiv 2410.16454), section 5, for modules. The released code means rows, per step; its mask is
never applied.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scripts.core import storage


@dataclass
class Mask:
    """kind, percentile, threshold, and norms: {parameter name: float32 tensor, () for a module or (rows,)} at θ_0."""

    kind: str
    percentile: float
    threshold: float
    norms: dict

    def trained(self, name: str) -> torch.Tensor:
        """Bool of the shape of the parameter's norms: what is trained of it at θ_0."""
        return self.norms[name].double() >= self.threshold

    def freeze(self, model) -> None:
        """Modules: those below the threshold need no gradient from here on."""
        if self.kind == "module":
            for name, p in model.named_parameters():
                p.requires_grad_(bool(self.trained(name)))

    def rows(self, model) -> dict:
        """{parameter: bool (rows,)} for rows that are chosen once; nothing for the other kinds."""
        if self.kind != "row-fixed":
            return {}
        return {p: self.trained(name).to(p.device) for name, p in model.named_parameters()}

    def save(self, run) -> None:
        """Write <run>/mask.json, and for rows <run>/mask.safetensors with the norms of all rows (float32)."""
        content = {"kind": self.kind, "percentile": self.percentile, "threshold": self.threshold, "weights": []}
        for name, norms in self.norms.items():
            share = self.trained(name).double().mean().item()
            content["weights"].append({"name": name, "norm": norms.double().norm().item(), "trained": share})
        if self.kind != "module":
            from safetensors.torch import save

            with storage.whole_file(Path(run) / "mask.safetensors") as file:
                file.write(save({name: norms.cpu().contiguous() for name, norms in self.norms.items()}))
        storage.write_json(Path(run) / "mask.json", content)


def row_norms(gradient: torch.Tensor) -> torch.Tensor:
    """(rows,) float32 norms of a gradient's rows; of a vector the absolute values."""
    return gradient.float().flatten(1).norm(dim=1) if gradient.ndim > 1 else gradient.float().abs()


def threshold_of(norms, percentile: float) -> float:
    """The percentile (0 … 100, interpolated between neighbours) of all norms together."""
    together = torch.cat([n.reshape(-1) for n in norms])  # one transfer: a GPU that is asked per tensor waits as often
    return float(np.percentile(together.cpu().double().numpy(), percentile))


def choose_rows(norms: dict, percentile: float) -> dict:
    """{key: bool (rows,)} of {key: row norms}: at or above the percentile of all rows together; {} if they are not finite."""
    threshold = threshold_of(norms.values(), percentile)
    return {key: norm.double() >= threshold for key, norm in norms.items()} if np.isfinite(threshold) else {}


def forget_gradient(model, batches, loss, autocast=nullcontext, zero=None) -> dict:
    """{parameter name: float32 gradient of the mean forget loss} over all batches; the model's own gradients stay empty.

    batches: iterable of forget batches. loss(model, batch): the method's scalar loss, a mean over the batch's rows. zero: the
    zero.Zero of one rank of several: all are given the same batches, read their own rows, and get the same sums.
    """
    device, count, training = next(model.parameters()).device, 0, model.training
    model.train()
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in model.named_parameters()}
    taken = [p.register_post_accumulate_grad_hook(_into(sums[name])) for name, p in model.named_parameters() if p.requires_grad]
    for batch in batches:
        weight, count = len(batch["index"]), count + len(batch["index"])
        if zero:
            batch, share = zero.rows(batch)
            weight *= share
        batch = {key: value.to(device) for key, value in batch.items()}
        with autocast():
            value = loss(model, batch)
        (value * weight).backward()
    for hook in taken:
        hook.remove()
    model.train(training)
    for name, total in sums.items():
        total.div_(count)
        if zero:  # one by one: a second set of float32 gradients need not fit
            sums[name] = zero.mean(total)
    return sums


def _into(total: torch.Tensor):
    """Hook of a parameter whose gradient of a backward pass is whole: add it, and let it go, so that one is alive at a time."""

    def take(p):
        total.add_(p.grad)
        p.grad = None

    return take


def mask_of(model, batches, loss, kind: str, percentile: float, autocast=nullcontext, zero=None) -> Mask:
    """The mask of θ_0 = the model as it is now, the same on every rank. ValueError when the gradient is not finite."""
    gradients = forget_gradient(model, batches, loss, autocast, zero)
    norm = row_norms if kind != "module" else (lambda gradient: gradient.norm())
    norms = {name: norm(gradient) for name, gradient in gradients.items()}
    for name, values in norms.items():
        if not torch.isfinite(values).all():
            raise ValueError(f"saliency: the forget gradient of {name} is not finite; allowed: a target that is")
    return Mask(kind, percentile, threshold_of(norms.values(), percentile), norms)
