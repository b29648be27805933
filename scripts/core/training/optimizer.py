"""AdamW whose arithmetic is float32 and whose *storage* is the experiment.

Two things are written at the end of a step: the weights and the two moments. Published unlearning code keeps both in
bfloat16, others keep float32; which of the two matters is one axis of the sweep, so the two precisions are separate
arguments here. A step reads everything into float32, runs the same fused AdamW kernel as
`torch.optim.AdamW(fused=True)`, and rounds only what is stored:

weights "fp32": kept as they are. weights "bf16": to the nearest bfloat16 (ties to even). weights "bf16_stochastic":
up or down with probability in proportion to the distance, so that the expected weight is the float32 result. moments
"fp32" or "bf16" (nearest).

"bf16" weights may be stored as bfloat16 tensors (a GPU computes with them directly) or as float32 tensors that hold
bfloat16 values (a CPU has no fast bfloat16 products); equal gradients give equal bits. With moments "bf16" a step on
bfloat16 tensors is the one of `torch.optim.AdamW(fused=True)` on a bfloat16 model, which also computes in float32 and
rounds what it stores.

The random bits of stochastic rounding are a hash of (seed, step, tensor, element): nothing to save but a counter,
equal on every device, and exact when a run is resumed. Source of AdamW: Loshchilov and Hutter 2019 (arXiv
1711.05101), algorithm 2.
"""

from itertools import accumulate

import torch

WEIGHTS = ("bf16", "bf16_stochastic", "fp32")
MOMENTS = ("bf16", "fp32")
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit")
# Elements that are widened to float32 together: bounds the extra memory of a step, and on a CPU keeps them in a core's cache (the
# demo's bf16 step in a third of the time, the same bits).
BUCKET = {"cuda": 2**26, "cpu": 2**17}
LARGEST = 2**26  # elements of one tensor that are widened together: more is done in parts


def _signed(value: int) -> int:
    """The int32 with the low 32 bits of `value`."""
    return (value & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _scramble(x: torch.Tensor) -> torch.Tensor:
    """A bijective 32-bit mixer (xor-shift and multiply, two rounds) on an int32 tensor, in place."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= (x >> shift) & ((1 << (32 - shift)) - 1)
        x *= _signed(factor)
    x ^= (x >> 16) & 0xFFFF
    return x


def random_halves(count: int, seed: int, step: int, tensor: int, device="cpu", start: int = 0) -> torch.Tensor:
    """(count,) int32 in 0 … 65535, a pure function of its arguments, the same on every device.

    start: an even number of elements of the tensor that come before.
    """
    key = torch.tensor([_signed(seed)], dtype=torch.int32)
    for word in (step, tensor):
        key = _scramble(key + _signed(word * 0x9E3779B9 + 1))
    # Wrapped at 32 bits: a rank's share of a large model has more elements.
    counter = torch.arange((start + count + 1) // 2 - start // 2, dtype=torch.int32, device=device) + _signed(start // 2)
    bits = _scramble(_scramble(counter) + int(key))
    return (bits.view(torch.int16)[:count]).int() & 0xFFFF


def round_stochastically(values: torch.Tensor, seed: int, step: int, tensor: int, start: int = 0) -> torch.Tensor:
    """float32 values on the bfloat16 grid: each of the two neighbours with probability equal to its nearness."""
    noise = random_halves(values.numel(), seed, step, tensor, values.device, start).view(values.shape)
    # The 16 bits that bfloat16 drops are the position between two neighbours: a uniform 16-bit number carries with that
    # probability.
    bits = (values.contiguous().view(torch.int32) + noise) & _signed(0xFFFF0000)
    return bits.view(torch.float32)


def indices(masks: dict) -> dict:
    """{key: numbers of the rows that are True} of {key: bool (rows,)}; a GPU is waited for twice, however many masks there are."""
    if not masks:
        return {}
    together = torch.cat(list(masks.values())).nonzero()[:, 0]
    parts = together.split(torch.stack([mask.sum() for mask in masks.values()]).tolist())
    starts = [0, *accumulate(len(mask) for mask in masks.values())]
    return {key: part - start for key, part, start in zip(masks, parts, starts, strict=False)}


class PrecisionAdamW(torch.optim.Optimizer):
    """AdamW with float32 arithmetic and chosen storage.

    params: float32 or bfloat16 tensors (bfloat16 only with weights "bf16" or "bf16_stochastic"). lr, betas, eps,
    weight_decay as in `torch.optim.AdamW`. weights: one of WEIGHTS. moments: one of MOMENTS. seed: of the stochastic
    rounding. Raises ValueError for an unknown precision or a storage dtype that cannot hold it.

    `rows` maps a parameter to a bool tensor (its first dimension,): only those rows are updated; the others keep their
    bits, moments included. The count of steps, for the correction of the moments' bias, is the whole tensor's.
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        weights="fp32",
        moments="fp32",
        seed=0,
    ):
        for key, value, known in (("weights", weights, WEIGHTS), ("moments", moments, MOMENTS)):
            if value not in known:
                raise ValueError(f"training.{key}: {value!r} is not allowed; allowed: {', '.join(known)}")
        if not lr >= 0 or not eps >= 0 or not weight_decay >= 0 or not all(0 <= b < 1 for b in betas):
            raise ValueError(
                f"optimizer: lr {lr}, betas {tuple(betas)}, eps {eps}, weight_decay {weight_decay}; "
                "allowed: at least 0, betas below 1"
            )
        defaults = dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)
        super().__init__(params, {**defaults, "weights": weights, "moments": moments, "seed": seed, "count": 0})
        self.rows = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p.dtype not in (torch.float32, torch.bfloat16) or (p.dtype != torch.float32 and weights == "fp32"):
                    raise ValueError(f"training.weights: {weights!r} can't be kept in {p.dtype} tensors; allowed: float32")

    def load_state_dict(self, state_dict):
        """As in the base class, but moments keep their own dtype (the base class casts them to the parameter's)."""
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        current = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(saved, current, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                self.state[p][key] = value.to(device=p.device, copy=True)

    @torch.no_grad()
    def step(self, closure=None):
        """One update from the parameters' `.grad`; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        ordinal, rows = 0, indices(self.rows)
        for group in self.param_groups:
            group["count"] += 1
            bucket, size = [], 0
            for p in group["params"]:
                ordinal += 1
                if p.grad is None:
                    continue
                if p in rows:
                    self._update_rows(group, ordinal, p, rows[p])
                    continue
                limit = BUCKET.get(p.device.type, BUCKET["cuda"])
                if p.numel() > LARGEST and p.is_contiguous():
                    self._update_in_parts(group, ordinal, p)
                    continue
                if bucket and (size + p.numel() > limit or p.device != bucket[0][1].device):
                    self._update(group, bucket)
                    bucket, size = [], 0
                bucket.append((ordinal, p))
                size += p.numel()
            if bucket:
                self._update(group, bucket)
        return loss

    def _state(self, p, moments):
        state = self.state[p]
        if not state:
            dtype = torch.bfloat16 if moments == "bf16" else torch.float32
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)
        return state

    def _update_rows(self, group, ordinal, p, index):
        """The step of some rows, made on copies that are written back."""
        state = self._state(p, group["moments"])
        tensors = (p, state["exp_avg"], state["exp_avg_sq"])
        parts = [tensor[index] for tensor in tensors]
        self._apply(group, [ordinal], [parts[0]], [p.grad[index]], [parts[1]], [parts[2]], [state["step"]])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.index_copy_(0, index, part)

    def _update_in_parts(self, group, ordinal, p):
        """The step of a tensor above that size, as ZeRO's, which hold all of a rank's weights."""
        state = self._state(p, group["moments"])
        flat = [tensor.reshape(-1) for tensor in (p, p.grad, state["exp_avg"], state["exp_avg_sq"])]
        for start in range(0, p.numel(), LARGEST):
            parts = [[tensor[start : start + LARGEST]] for tensor in flat]
            self._apply(group, [ordinal], *parts, [state["step"].clone()], start)
        state["step"] += 1

    def _update(self, group, bucket):
        params = [p for _, p in bucket]
        states = [self._state(p, group["moments"]) for p in params]
        moments = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        self._apply(group, [n for n, _ in bucket], params, [p.grad for p in params], *moments, [s["step"] for s in states])

    @staticmethod
    def _apply(group, ordinals, params, grads, averages, squares, steps, start=0):
        """One step of these tensors in place: float32 arithmetic, stored in the group's precisions."""
        stored = [params, averages, squares]
        # `.float()` returns a float32 tensor itself: then the kernel writes in place and nothing is copied.
        wide = [[t.detach().float() for t in tensors] for tensors in stored]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            wide[0],
            [gradient.float() for gradient in grads],
            wide[1],
            wide[2],
            [],
            steps,
            lr=float(group["lr"]),
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
        if group["moments"] == "bf16":
            torch._foreach_copy_(stored[1] + stored[2], wide[1] + wide[2])
        if group["weights"] == "bf16":
            torch._foreach_copy_(params, [w.bfloat16() for w in wide[0]])
        elif group["weights"] == "bf16_stochastic":
            for ordinal, p, w in zip(ordinals, params, wide[0], strict=True):
                p.copy_(round_stochastically(w, group["seed"], group["count"], ordinal, start))


def paging(kind):
    """bitsandbytes' paged optimiser `kind`, with moments in paged memory after a resume, too: by itself it reads a saved state to
    the GPU, where they need not fit.
    """

    class Paging(kind):
        def load_state_dict(self, state_dict):
            super().load_state_dict(state_dict, move_to_device=False)
            for p, state in self.state.items():
                for name in ("state1", "state2"):
                    state[name] = self.get_state_buffer(p, dtype=state[name].dtype).copy_(state[name])

    return Paging


def bitsandbytes_adamw(name: str, groups, **usual):
    """bitsandbytes' AdamW for parameter groups: moments in 8 bits (blocks of 256; tensors below 4096 elements stay in float32)
    and, when paged, in memory that moves between GPU and host. usual: lr, betas, eps.

    The weights have to be float32 on a GPU. Raises ValueError otherwise, and for an unknown name. Source: Dettmers et al. 2022
    (arXiv 2110.02861).
    """
    import bitsandbytes

    known = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw": paging(bitsandbytes.optim.PagedAdamW32bit),
        "paged_adamw_8bit": paging(bitsandbytes.optim.PagedAdamW8bit),
    }
    if name not in known:
        raise ValueError(f"training.optimizer: {name!r} is not allowed; allowed: {', '.join(OPTIMIZERS)}")
    parameters = [p for group in groups for p in group["params"]]
    if any(p.dtype != torch.float32 or p.device.type != "cuda" for p in parameters):
        raise ValueError(f"training.optimizer: {name!r} is not allowed here; allowed: adamw (it needs fp32 weights on a GPU)")
    return known[name](groups, **usual)
