"""bitsandbytes through transformers: what its three schemes share.

On a CPU, 4-bit layers are turned into plain fp32 layers once they are quantized: bitsandbytes would dequantize them
again in each forward pass with the same result, and on CPUs with bf16 instructions it would compute in bf16, so that a
score would depend on the machine. 8-bit layers stay as they are, because they quantize activations too.
"""

import copy
import logging
import sys

ABSENT = object()
BLOCK = 64
STATISTICS_BLOCK = 256
# Half way from the innermost codes to the next: FP4 (1/192 + 1/6)/2; NF4 the mean of 0.0796/2 and 0.0911/2.
EDGES = {"fp4": (1 / 192 + 1 / 6) / 2, "nf4": (0.07958029955625534 + 0.09105003625154495) / 4}


def compute_dtype(device):
    """fp32 on a CPU, bf16 on a GPU (the published setting)."""
    import torch

    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16


def import_library() -> None:
    """Import bitsandbytes without torch's compiler, which takes 1.2 s to import, and without kernels from the hub.

    The compiler would make spare versions of kernels that bitsandbytes has of its own for CPUs and for GPUs. On CPUs with bf16
    instructions bitsandbytes fetches a compiled kernel from the hub where the package `kernels` is there, and warns where it is
    not: code from elsewhere, for 4-bit products in bf16 that are not made here (above).
    """
    import torch

    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    compiler, fetcher, silent = torch.compile, sys.modules.get("kernels", ABSENT), log.disabled
    torch.compile = lambda function=None, **options: function or (lambda decorated: decorated)
    sys.modules["kernels"], log.disabled = None, True
    try:
        import bitsandbytes  # noqa: F401
    finally:
        torch.compile, log.disabled = compiler, silent
        if fetcher is ABSENT:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = fetcher


def load_4bit(checkpoint, kind: str, double: bool, device):
    """The model with bitsandbytes' own 4-bit layers ('fp4' or 'nf4', blocks of 64)."""
    from transformers import BitsAndBytesConfig

    from scripts.core.weights.quantization import load_model

    import_library()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=compute_dtype(device),
    )
    return load_model(checkpoint, device, config)


def dequantized(packed, state):
    """The fp32 weights that packed codes and their quantization state stand for, in the shape that was quantized.

    Read as one row. Blocks run on across rows, but bitsandbytes' kernel for CPUs with AVX-512 begins each row with a new one (seen
    in 0.50.2), so that a matrix whose columns are no multiple of 64 gets the scales of other blocks.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit

    row = copy.copy(state)
    row.shape = torch.Size((1, state.shape.numel()))
    return dequantize_4bit(packed, row).float().reshape(state.shape)


def materialize(model):
    """Replace 4-bit layers by plain Linear layers that hold their dequantized fp32 weights; returns the model."""
    import torch
    from bitsandbytes.nn import Linear4bit

    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear4bit):
            weight = dequantized(layer.weight.data, layer.weight.quant_state)
            with torch.device("meta"):
                plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
            plain.weight, plain.bias = torch.nn.Parameter(weight, requires_grad=False), layer.bias
            model.set_submodule(name, plain.eval())
    return model


def held_4bit(weight, kind: str, double: bool):
    """(values, codes, edge) of one matrix as a loaded model holds it: fp32 (rows, columns), uint8 codes, a number.

    `edge` is the median over blocks of the |w| below which a weight becomes an innermost code: 0 and ±1/192 of FP4, 0 of NF4
    (there the mean of its two sides). FP4 has two zeros; they count as one code.
    """
    import torch

    import_library()
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(
        weight.float().contiguous(), blocksize=BLOCK, quant_type=kind, compress_statistics=double, quant_storage=torch.uint8
    )
    values = dequantized(packed, state)
    codes = torch.stack([packed.reshape(-1) >> 4, packed.reshape(-1) & 15], 1).reshape(-1)[: weight.numel()]
    if kind == "fp4":
        codes = torch.where(codes == 8, 0, codes)
    pad = -weight.numel() % BLOCK
    largest = torch.nn.functional.pad(weight.float().abs().reshape(-1), (0, pad)).reshape(-1, BLOCK).amax(1)
    return values, codes.reshape(weight.shape), EDGES[kind] * largest.median().item()


def load_usable_4bit(checkpoint, kind: str, scheme: dict, device):
    """The 4-bit model as it is evaluated."""
    import torch

    model = load_4bit(checkpoint, kind, scheme.get("double", False), device)
    return materialize(model) if torch.device(device).type == "cpu" else model


def report_4bit(model, scheme: dict) -> dict:
    """Bits: 4 per weight, fp32 absmax per block of 64; with `double`, 8 bits per absmax and fp32 per 256 of those (plus
    one offset).
    """
    from scripts.core.weights.quantization import report

    def layer_bits(rows, cols):
        blocks = -(-rows * cols // BLOCK)
        scales = blocks * 8 + -(-blocks // STATISTICS_BLOCK) * 32 + 32 if scheme.get("double", False) else blocks * 32
        return rows * cols * 4 + scales

    return report(model, layer_bits)
