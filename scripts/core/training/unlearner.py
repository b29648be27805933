"""Unlearning: a forget objective plus a regularizer, with a mask of what may be trained."""

import torch

from scripts.core.training import saliency
from scripts.core.training.trainer import RunTrainer


class UnlearnTrainer(RunTrainer):
    """RunTrainer for the terms of an objective, on a data set that gives {"forget": …, "retain": …}.

    objective: scripts.core.training.objective.Objective. reference: scripts.core.training.reference.Reference of θ_0. mask:
    scripts.core.training.saliency.Mask of θ_0, or None; what lies outside it keeps its bits.
    """

    def __init__(self, model, dataset, training, seed, objective, reference, *, store=None, mask=None, zero=None):
        if mask:
            mask.freeze(model)
        super().__init__(model, dataset, training, seed, store, zero)
        self.mask, self._held, self._forget = mask, {}, {}
        if mask:
            self.rows.update(mask.rows(model))
        self.forget_weight = 2.0 if mask and self.training["sure_double"] else 1.0
        self.objective, self.reference = objective, reference

    def terms(self, model, batch):
        """The forget term with weight 1, what a method keeps by itself, and the retain term with weight alpha."""
        objective, reference = self.objective, self.reference
        yield "forget", self.forget_weight, lambda: objective.forget(model, batch["forget"], reference)
        if objective.keeps:
            yield "keep", 1.0, lambda: objective.keep(model, batch["retain"], reference)
        yield "retain", objective.alpha, lambda: objective.retain(model, batch["retain"], reference)

    # Rows chosen anew in each step need the gradient of the forget term alone, summed over the step's batches.

    def _chooses(self, name) -> bool:
        return name == "forget" and self.mask is not None and self.mask.kind == "row-step"

    def before_term(self, name):
        """Put the gradient of the terms before it aside, so that the forget term's gradient can be seen by itself."""
        if self._chooses(name):
            self._held = {p: p.grad for p in self.model.parameters() if p.grad is not None}
            self.model.zero_grad(set_to_none=True)

    def after_term(self, name):
        """Note the forget term's gradient, and add what was put aside to it again."""
        if not self._chooses(name):
            return
        for p in self.model.parameters():
            if p.grad is None:
                continue
            if p in self._forget:
                self._forget[p].add_(p.grad)
            else:
                self._forget[p] = p.grad.detach().clone()
        for p, gradient in self._held.items():
            p.grad = gradient if p.grad is None else p.grad.add_(gradient)
        self._held = {}

    def before_step(self):
        """Choose this step's rows, and clear the gradient of all others, so that clipping counts what is trained."""
        if self._forget:
            norms = {p: torch.zeros(len(p), device=p.device) for p in self.model.parameters()}  # what the term does not reach
            norms |= {p: saliency.row_norms(gradient) for p, gradient in self._forget.items()}
            self._forget = {}
            self.rows.clear()  # no mask where the gradient is not finite: the step's norm will tell
            self.rows.update(saliency.choose_rows(norms, self.mask.percentile))
        for p, mask in self.rows.items():
            if p.grad is not None:
                p.grad.masked_fill_(~mask.reshape(-1, *[1] * (p.grad.ndim - 1)), 0)
