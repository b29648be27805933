"""AWQ (activation-aware weight quantization, arXiv 2306.00978): the search for scales and clips, on a CPU or a GPU.

Weights that meet large activations are scaled up before rounding and the activations down, which changes nothing but the
rounding. For each set of matrices W that read the same input X (columns = tokens), following the paper's equations 4 and 5:

  s_X = mean |X| per input channel,   s(α) = s_X^α / sqrt(max s_X^α · min s_X^α)
  α* = argmin over α ∈ {0, 1/20, …, 19/20} of ‖Q(W·diag(s))·diag(s)⁻¹·X − W·X‖²

s goes into what comes before: a norm's weight, or the rows of the matrix that makes the channels (v_proj for o_proj, up_proj
for down_proj; o_proj is left unscaled where heads share values). Then, for every matrix but q_proj and k_proj, each group's
range is cut to the ratio r ∈ {1, 0.95, …, 0.55} that is best for ‖(Q(clip(w, r)) − w)·X‖² of its own columns.

With the Gram matrix G = X·Xᵀ of each input, ‖D·X‖² = tr(D·G·Dᵀ) exactly, so activations are not kept. Q is this project's
rtn with groups, asymmetric, with scales rounded to fp16 as they are stored. Inputs are those of the unquantized model.
"""

from scripts.quantizers import _artifact, _calibrated

SHARES = ("_calibrated",)
PARAMETERS = {
    "bits": {"type": "integer", "enum": [2, 3, 4, 8], "default": 4, "description": "bits per code"},
    "group": {"type": "integer", "minimum": 8, "default": 128, "description": "columns that share a scale"},
    "clip": {"type": "boolean", "default": True, "description": "search for clipped ranges after the scales"},
}
ENVIRONMENT = "train"
ARTIFACT = True
HARDWARE = ["cpu", "cuda"]
SERVED = True
SOURCE = "this project, after arXiv 2306.00978"
check, describe = _calibrated.check, _artifact.describe
GRID = 20
CLIPS = 10
READS = {  # layer: the layer whose input it shares
    "self_attn.q_proj": "self_attn.q_proj",
    "self_attn.k_proj": "self_attn.q_proj",
    "self_attn.v_proj": "self_attn.q_proj",
    "self_attn.o_proj": "self_attn.o_proj",
    "mlp.gate_proj": "mlp.gate_proj",
    "mlp.up_proj": "mlp.gate_proj",
    "mlp.down_proj": "mlp.down_proj",
}
AFTER = {"self_attn.v_proj": "self_attn.o_proj", "mlp.up_proj": "mlp.down_proj"}  # whose input's scale divides its rows


def rounded(weight, bits: int, group: int, low=None, high=None):
    """(codes, scale, zero) of fp32 `weight` on asymmetric grids with fp16 scales, one per group of columns.

    low, high: (sets, 1) ranges that replace each group's own minimum and maximum (clipping).
    """
    import torch

    flat = weight.reshape(-1, group)
    low = flat.amin(1, keepdim=True).clamp(max=0) if low is None else low
    high = flat.amax(1, keepdim=True).clamp(min=0) if high is None else high
    scale = ((high - low) / (2**bits - 1)).half().float()
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = (-low / scale).round().clamp(0, 2**bits - 1)
    codes = ((flat / scale).round() + zero).clamp(0, 2**bits - 1)
    return codes, scale, zero


def value(codes, scale, zero, shape):
    """fp32 weights of `shape` from `rounded`."""
    return ((codes - zero) * scale).reshape(shape)


def loss(difference, gram) -> float:
    """‖difference·X‖² = tr(D·G·Dᵀ) for difference D (rows, columns) and G = X·Xᵀ."""
    return ((difference @ gram) * difference).sum().item()


def best_scale(weights, gram, mean, bits: int, group: int):
    """(s, α*, losses) for matrices that read one input: s (columns,) of the α with the smallest summed loss.

    weights: list of (rows, columns) fp32; gram (columns, columns); mean (columns,) of |x|. losses by α, α = 0 is s = 1.
    """
    best, alpha, losses = None, 0.0, []
    for step in range(GRID):
        s = mean.clamp(min=1e-4) ** (step / GRID)
        s = s / (s.max() * s.min()).sqrt()
        losses.append(sum(loss(value(*rounded(w * s, bits, group), w.shape) / s - w, gram) for w in weights))
        if step == 0 or losses[-1] < min(losses[:-1]):
            best, alpha = s, step / GRID
    return best, alpha, losses


def best_clip(weight, gram, bits: int, group: int):
    """(low, high) (sets, 1): each group's range times its best ratio, judged on the group's own columns."""
    import torch

    rows, cols = weight.shape
    groups = cols // group
    flat = weight.reshape(-1, group)
    own = torch.stack([gram[i : i + group, i : i + group] for i in range(0, cols, group)])
    low, high = flat.amin(1, keepdim=True).clamp(max=0), flat.amax(1, keepdim=True).clamp(min=0)
    best = torch.full((rows, groups), float("inf"), device=weight.device)
    ratio = torch.ones(rows, groups, device=weight.device)
    for step in range(CLIPS):
        r = 1 - 0.05 * step
        difference = value(*rounded(weight, bits, group, low * r, high * r), (rows, groups, group))
        difference = difference - weight.reshape(rows, groups, group)
        error = (torch.einsum("rgi,gij->rgj", difference, own) * difference).sum(-1)
        better = error < best
        best, ratio = torch.where(better, error, best), torch.where(better, torch.full_like(ratio, r), ratio)
    ratio = ratio.reshape(-1, 1)
    return low * ratio, high * ratio


class Inputs:
    """Gram matrix and mean |x| of the inputs of some layers, gathered by hooks while the model runs."""

    def __init__(self, layers: dict):
        self.sums, self.hooks = {}, [layer.register_forward_pre_hook(self.hook(name)) for name, layer in layers.items()]

    def hook(self, name):
        def add(layer, inputs):
            x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            gram, total, count = self.sums.get(name, (0, 0, 0))
            self.sums[name] = (gram + x.T @ x, total + x.abs().sum(0), count + len(x))

        return add

    def result(self) -> dict:
        """{layer: (gram (columns, columns), mean (columns,))}; hooks are removed."""
        for hook in self.hooks:
            hook.remove()
        return {name: (gram, total / count) for name, (gram, total, count) in self.sums.items()}


def block_inputs(model, windows, device) -> list:
    """(hidden states, keyword arguments) with which the first decoder block is called, one per window."""
    import torch

    calls = []

    class Stop(Exception):
        pass

    def catch(block, positional, named):
        calls.append((positional[0], named))
        raise Stop

    hook = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for window in windows:
        try:
            model(torch.tensor([window], device=device), use_cache=False)
        except Stop:
            pass
    hook.remove()
    return calls


def scale_block(block, seen: dict, bits: int, group: int) -> tuple[dict, dict]:
    """Search and apply the scales of one decoder block in place, and update `seen` to scaled inputs.

    Returns, by input, the scales s (columns,) and their α.
    """
    attention, mlp = block.self_attn, block.mlp
    sets = [
        ("self_attn.q_proj", [attention.q_proj, attention.k_proj, attention.v_proj], block.input_layernorm),
        ("mlp.gate_proj", [mlp.gate_proj, mlp.up_proj], block.post_attention_layernorm),
        ("mlp.down_proj", [mlp.down_proj], mlp.up_proj),
    ]
    if attention.v_proj.out_features == attention.o_proj.in_features:
        sets.insert(1, ("self_attn.o_proj", [attention.o_proj], attention.v_proj))
    scales, alphas = {}, {}
    for name, layers, before in sets:
        gram, mean = seen[name]
        s, alphas[name], _ = best_scale([layer.weight.data for layer in layers], gram, mean, bits, group)
        for layer in layers:
            layer.weight.data.mul_(s)
        before.weight.data.div_(s if before.weight.ndim == 1 else s[:, None])
        if getattr(before, "bias", None) is not None:
            before.bias.data.div_(s)
        seen[name] = (gram / s / s[:, None], mean / s)
        scales[name] = s
    return scales, alphas


def prepare() -> None:
    """Import what takes longer to import than a small model to quantize, so that seconds are of the latter."""
    import transformers.models.llama.modeling_llama  # noqa: F401


def quantize(checkpoint, scheme: dict, windows: list[list[int]], out, device: str) -> None:
    """Write the quantized matrices and the changed norms into `out`, in compressed-tensors' pack-quantized layout."""
    import torch
    from safetensors.torch import save_file

    from scripts.core import storage
    from scripts.core.weights import quantization
    from scripts.quantizers import _formats

    bits, group = scheme["bits"], scheme["group"]
    model = quantization.load_model(checkpoint, device).float()
    stored, alphas = {}, {}
    with torch.no_grad():
        calls = block_inputs(model, windows, device)
        for number, block in enumerate(model.model.layers):
            inputs = Inputs({name: block.get_submodule(name) for name in sorted(set(READS.values()))})
            outputs = [block(hidden, **named) for hidden, named in calls]
            calls = [(o[0] if isinstance(o, tuple) else o, named) for o, (_, named) in zip(outputs, calls, strict=True)]
            seen = inputs.result()
            scales, alphas[number] = scale_block(block, seen, bits, group)
            for name, source in READS.items():
                weight = block.get_submodule(name).weight.data
                clip = scheme["clip"] and name not in ("self_attn.q_proj", "self_attn.k_proj")
                limits = best_clip(weight, seen[source][0], bits, group) if clip else (None, None)
                codes, scale, zero = rounded(weight, bits, group, *limits)
                parts = _formats.to_pack_quantized(codes.long(), scale.half(), zero.long(), weight.shape, bits)
                # How to get back from scaled to the checkpoint's weights: w = stored / input_scale · output_scale.
                divisor = scales.get(AFTER.get(name))
                parts["input_scale"] = scales.get(source, torch.ones_like(weight[0])).clone()
                parts["output_scale"] = torch.ones_like(weight[:, 0]) if divisor is None else divisor.clone()
                stored |= {f"model.layers.{number}.{name}.{part}": t.cpu() for part, t in parts.items()}
        for key, tensor in model.state_dict().items():
            if "layernorm" in key or key.endswith(".bias"):
                stored[key] = tensor.cpu().contiguous()
    save_file(stored, str(out / "model.safetensors"), metadata={"format": "pt"})
    storage.write_json(out / "alphas.json", alphas)


def load(checkpoint, scheme: dict, device, artifact=None):
    """The dequantized model in eval mode."""
    from scripts.quantizers import _formats

    return _artifact.load(checkpoint, artifact, device, lambda parts: _formats.pack_quantized(parts, scheme["bits"]))


def stored(parts: dict, scheme: dict):
    """(values, codes, edge) of one stored matrix in the checkpoint's own units: AWQ's scales are taken out again."""
    from scripts.quantizers import _formats

    if not {"input_scale", "output_scale"} <= parts.keys():
        raise ValueError("artifact: no scales beside AWQ's codes; allowed: a folder that this version of scripts.quantize wrote")
    values, codes, _ = _formats.stored(_formats.pack_quantized(parts, scheme["bits"]), parts, scheme["bits"])
    steps = parts["weight_scale"].float().repeat_interleave(values.shape[1] // parts["weight_scale"].shape[1], 1)
    values, steps = (part / parts["input_scale"] * parts["output_scale"][:, None] for part in (values, steps))
    return values, codes, steps.median().item() / 2
