"""What an update Δw = w − w_0 does to the weights, and what a quantizer Q leaves of it: sums over one matrix at a time.

With Δq = Q(w) − Q(w_0): p = ⟨Δq, Δw⟩/‖Δw‖² is the share of the update that is kept in its own direction, and
‖Δq‖² = p²·‖Δw‖² + ‖Δq − p·Δw‖² splits what survives into that part and noise. Everything here is a sum over weights, so that
matrices, kinds of layers and whole models follow by adding; ratios are formed from the sums (`ratios`).
"""

import math

import torch

FIRST, LAST = -80, 16  # half octaves: bin k holds 2^(k/2) ≤ |x| < 2^((k+1)/2); what lies outside goes to the first or last
SUMS = ("n", "changed", "w2", "d2", "gd", "d1", "d1w")
SCHEME_SUMS = ("codes", "values", "q2", "qd", "e2", "gq")


def total(values: torch.Tensor) -> float:
    """Sum in double precision, to ten significant digits, so that the order of adding does not show."""
    return float(f"{values.double().sum().item():.10g}")


def histogram(values: torch.Tensor) -> dict[str, int]:
    """{bin: count} of |values| (no zeros among them), by half octave; bins without a value are left out."""
    bins = (2 * values.float().abs().log2()).floor().clamp(FIRST, LAST - 1) - FIRST
    counts = torch.bincount(bins.long().reshape(-1), minlength=LAST - FIRST).tolist()
    return {str(k + FIRST): count for k, count in enumerate(counts) if count}


def of_update(before: torch.Tensor, after: torch.Tensor, gradient: torch.Tensor | None = None) -> dict:
    """Sums and histograms of one tensor's update.

    before, after, gradient: fp32 tensors of one shape: w_0, w, and ∂L/∂w. Returns n, changed (weights with Δw ≠ 0), w2 = Σw²,
    d2 = ΣΔw², gd = Σg·Δw (None without gradient), d1 = Σ|Δw|, d1w = Σ|Δw|·|w_0|; histograms all (|w_0| of all weights that are not
    0), moved (|w_0| where Δw ≠ 0) and steps (|Δw| where it is not 0).
    """
    step = after - before
    where = step != 0
    return {
        "n": step.numel(),
        "changed": int(where.sum()),
        "w2": total(after * after),
        "d2": total(step.double() ** 2),
        "gd": None if gradient is None else total(gradient.double() * step),
        "d1": total(step.abs()),
        "d1w": total(step.double().abs() * before.abs()),
        "all": histogram(before[before != 0]),
        "moved": histogram(before[where & (before != 0)]),
        "steps": histogram(step[where]),
    }


def of_scheme(before, after, held_before, held_after, gradient=None) -> dict:
    """Sums of one matrix under a scheme.

    held_before, held_after: (values, codes, edge) of w_0 and of w, as quantizers return them. Returns codes (weights whose code
    changes; None where there are no codes), values (weights whose dequantized value changes), q2 = ΣΔq², qd = ΣΔq·Δw,
    e2 = Σ(Q(w) − w)², gq = Σg·Δq, edge; and `crossed`, the histogram of |w_0| where Δw ≠ 0 and the code (value) changes.
    """
    (old, old_codes, edge), (new, new_codes, _) = held_before, held_after
    step, difference = after - before, new - old
    different = difference != 0 if old_codes is None else old_codes != new_codes
    return {
        "codes": None if old_codes is None else int(different.sum()),
        "values": int((difference != 0).sum()),
        "q2": total(difference.double() ** 2),
        "qd": total(difference.double() * step),
        "e2": total((new - after).double() ** 2),
        "gq": None if gradient is None else total(gradient.double() * difference),
        "edge": edge,
        "crossed": histogram(before[different & (step != 0) & (before != 0)]),
    }


def add(parts: list[dict], names) -> dict:
    """Sums of `names` over matrices; None where any of them is None, or was not measured by an earlier version."""
    columns = {name: [part.get(name) for part in parts] for name in names}
    return {name: None if any(v is None for v in values) else math.fsum(values) for name, values in columns.items()}


def ratios(update: dict, rest: dict, scheme: dict) -> dict:
    """What is read off the sums of the quantized matrices (update, scheme) and of all other tensors (rest).

    changed, code_changed, value_changed: shares of the quantized weights. survived = ‖Δq‖²/‖Δw‖², projection = p,
    noise = survived − p², snr = p²/noise. noise_ratio = ‖Δw‖²/‖Q(w) − w‖². relative_step = ‖Δw‖/‖w‖. kept is p over all of
    the model, where what is not quantized keeps its update whole: (⟨Δq, Δw⟩ + ‖Δw_rest‖²)/(‖Δw‖² + ‖Δw_rest‖²). first_order
    is the same weighted by the gradient: (Σg·Δq + Σ_rest g·Δw)/Σg·Δw. reach = 2·Σ|Δw|·|w_0|/Σ|Δw|, how far the weights that moved
    reach: r if the update lies evenly on |w_0| from 0 to r. A ratio over nothing is None.
    """
    n, d2 = update["n"], update["d2"]

    def over(above, below):
        return None if above is None or not below else above / below

    p, survived = over(scheme["qd"], d2), over(scheme["q2"], d2)
    noise = None if p is None else max(0.0, survived - p * p)
    first_order = None
    if None not in (scheme["gq"], update["gd"], rest["gd"]):
        first_order = over(scheme["gq"] + rest["gd"], update["gd"] + rest["gd"])
    return {
        "changed": over(update["changed"], n),
        "code_changed": over(scheme["codes"], n),
        "value_changed": over(scheme["values"], n),
        "survived": survived,
        "projection": p,
        "noise": noise,
        # Differences of sums of ten digits: what is left below a millionth of the whole is rounding, not noise.
        "snr": None if p is None or noise <= 1e-6 * max(survived, p * p) else p * p / noise,
        "noise_ratio": over(d2, scheme["e2"]),
        "relative_step": None if not update["w2"] else (d2 / update["w2"]) ** 0.5,
        "kept": over(scheme["qd"] + rest["d2"], d2 + rest["d2"]),
        "first_order": first_order,
        "reach": None if update["d1"] is None else over(2 * update["d1w"], update["d1"]),
    }
