"""The three token-level quantities that every objective is made of.

A language model of a real size has 32 thousand logits per token, so a float32 copy of them, or of their log-softmax,
is the largest tensor of a training step. The two autograd functions below read the logits in slices, keep only one
number per token, and write the gradient (softmax minus target, known in closed form) in the dtype of the logits. Sums
over tokens are in float32 whatever the model's dtype.
"""

from contextlib import contextmanager

import torch
from torch.autograd.function import once_differentiable

IGNORED = -100
# Logits that are widened to float32 at a time: 64 MiB on a GPU, on a CPU what stays in a core's cache (the same bits).
SLICE = {"cuda": 2**24, "cpu": 2**17}


def forward(model, batch) -> torch.Tensor:
    """Logits (B, T, V) of a batch, in the dtype that the model computes in."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


@contextmanager
def evaluating(model):
    """Context in which a model is in evaluation mode; then it is again in the mode that it had."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def targets(batch) -> torch.Tensor:
    """(B, T) the token that each position predicts, IGNORED where there is none (padding, and the last position)."""
    labels = batch["labels"]
    return torch.cat([labels[:, 1:], labels.new_full((labels.shape[0], 1), IGNORED)], dim=1)


def _slices(flat):
    tokens, vocabulary = flat.shape
    size = max(1, SLICE.get(flat.device.type, SLICE["cuda"]) // vocabulary)
    return [slice(start, start + size) for start in range(0, tokens, size)]


class _TokenLogprob(torch.autograd.Function):
    """log p(target) per token; 0 where ignored. d/dlogits = onehot(target) − softmax(logits)."""

    @staticmethod
    def forward(ctx, logits, target):
        flat, wanted = logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
        seen, index = wanted != IGNORED, wanted.clamp(min=0)[:, None]
        normaliser = torch.empty(len(wanted), dtype=torch.float32, device=logits.device)
        result = torch.empty_like(normaliser)
        for part in _slices(flat):
            wide = flat[part].float()
            normaliser[part] = torch.logsumexp(wide, dim=-1)
            result[part] = wide.gather(1, index[part])[:, 0] - normaliser[part]
        ctx.save_for_backward(logits, seen, index, normaliser)
        return torch.where(seen, result, 0.0).view(target.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        logits, seen, index, normaliser = ctx.saved_tensors
        flat = logits.reshape(-1, logits.shape[-1])
        gradient = torch.empty_like(flat)
        weight = torch.where(seen, upstream.reshape(-1), 0.0)[:, None]
        for part in _slices(flat):
            wide = (flat[part] - normaliser[part, None]).exp_().mul_(-weight[part])
            wide.scatter_(1, index[part], wide.gather(1, index[part]) + weight[part])
            gradient[part] = wide
        return gradient.view(logits.shape), None


class _TokenKL(torch.autograd.Function):
    """KL(reference ‖ model) per token; 0 where ignored. d/dlogits = softmax(logits) − softmax(reference)."""

    @staticmethod
    def forward(ctx, logits, reference, seen):
        flat, fixed, seen = (x.reshape(-1, *x.shape[2:]) for x in (logits, reference, seen))
        normaliser = torch.empty(2, len(seen), dtype=torch.float32, device=logits.device)
        result = torch.empty_like(normaliser[0])
        for part in _slices(flat):
            wide, base = flat[part].float(), fixed[part].float()
            normaliser[0, part], normaliser[1, part] = torch.logsumexp(wide, -1), torch.logsumexp(base, -1)
            log_base = base - normaliser[1, part, None]
            difference = log_base - (wide - normaliser[0, part, None])
            # A token that the reference rules out (log-probability −inf) adds nothing; 0 · inf would be NaN.
            result[part] = torch.where(log_base == -torch.inf, 0.0, log_base.exp() * difference).sum(-1)
        ctx.save_for_backward(logits, reference, seen, normaliser)
        return torch.where(seen, result, 0.0).view(logits.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        logits, reference, seen, normaliser = ctx.saved_tensors
        flat, fixed = logits.reshape(-1, logits.shape[-1]), reference.reshape(-1, logits.shape[-1])
        gradient = torch.empty_like(flat)
        weight = torch.where(seen, upstream.reshape(-1), 0.0)[:, None]
        for part in _slices(flat):
            wide = (flat[part] - normaliser[0, part, None]).exp_()
            wide.sub_((fixed[part] - normaliser[1, part, None]).exp_())
            gradient[part] = wide.mul_(weight[part])
        return gradient.view(logits.shape), None, None


def token_logprob(logits, batch) -> torch.Tensor:
    """(B, T) float32 natural-log probability of the token that each position predicts; 0 where it predicts none."""
    return _TokenLogprob.apply(logits, targets(batch))


def cross_entropy(logits, batch) -> torch.Tensor:
    """Token-mean causal cross-entropy in nats: −Σ log p / number of predicted tokens of the batch (scalar)."""
    predicted = (batch["labels"][:, 1:] != IGNORED).sum()
    return -token_logprob(logits, batch).sum() / predicted


def sequence_logprob(logits, batch) -> torch.Tensor:
    """(B,) log-probability of each sequence: the sum over its predicted tokens, in nats."""
    return token_logprob(logits, batch).sum(dim=1)


def kl_divergence(logits, reference, batch) -> torch.Tensor:
    """KL(p_reference ‖ p) in nats, mean over the predicted tokens of the batch (scalar); gradient to `logits` only."""
    seen = targets(batch) != IGNORED
    return _TokenKL.apply(logits, reference.detach(), seen).sum() / seen.sum()
