"""llama.cpp's block formats (GGUF), as its users deploy them, quantized by llama.cpp itself.

The rounding is `ggml_quantize_chunk` of the llama.cpp that ships in the xllamacpp package: for k-quants it searches the scales
of sub-blocks of 16 or 32 weights, then quantizes these scales to 6 or 8 bits per block of 256. No importance matrix. The
mixes q4_k_m and q5_k_m take q6_k for v_proj and down_proj in the first and last eighth of the blocks and in every third
block between, as llama.cpp does. Rows that 256 does not divide fall back as there: q4_k → q5_0, q5_k → q5_1,
q6_k → q8_0. The output head and the embeddings stay as they are, as in all schemes here (llama.cpp would quantize them
too). What is written are the blocks, in safetensors; a GGUF file for llama.cpp also needs its metadata and tokenizer.
"""

from pathlib import Path

from scripts.core.weights import quantization
from scripts.quantizers import _artifact

PARAMETERS = {
    "type": {
        "type": "string",
        "enum": ["q4_0", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "q4_k_m", "q5_k_m"],
        "default": "q4_k_m",
        "description": "llama.cpp's name of the format; _m are mixes",
    },
}
ENVIRONMENT = "gguf"
ARTIFACT = True
HARDWARE = ["cpu"]
SOURCE = "llama.cpp in xllamacpp 2026.10.11549"
describe = _artifact.describe
FALLBACK = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
SIZES = {  # llama.cpp's number, weights and bytes per block
    "q4_0": (2, 32, 18),
    "q5_0": (6, 32, 22),
    "q5_1": (7, 32, 24),
    "q8_0": (8, 32, 34),
    "q4_k": (12, 256, 144),
    "q5_k": (13, 256, 176),
    "q6_k": (14, 256, 210),
}


def check(scheme: dict, model_shape: dict | None = None) -> None:
    """ValueError for columns that no block divides."""
    for name, width in quantization.columns(model_shape).items():
        if width % 32:
            raise ValueError(
                f"type: {scheme['type']} needs blocks of 32, and {name} has {width} columns; allowed: a multiple of 32"
            )


def block_type(wanted: str, layer: str, blocks: int, columns: int) -> str:
    """The format of one matrix: mixes resolved by layer and number of decoder blocks, and fallbacks by columns."""
    kind = wanted.removesuffix("_m")
    if wanted.endswith("_m") and layer.endswith(("v_proj", "down_proj")):
        number = int(layer.split(".layers.")[1].split(".")[0])
        if number < blocks // 8 or number >= 7 * blocks // 8 or (number - blocks // 8) % 3 == 2:
            kind = "q6_k"
    return FALLBACK.get(kind, kind) if columns % SIZES[kind][1] else kind


def matrix(path, header: dict):
    """fp32 numpy array of one tensor of a safetensors file (numpy itself has no bfloat16)."""
    import numpy as np

    first, last = header["data_offsets"]
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little") + first)
        raw = file.read(last - first)
    if header["dtype"] == "BF16":
        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[header["dtype"]]).astype(np.float32)
    return values.reshape(header["shape"])


def quantizer():
    """llama.cpp's ggml_quantize_chunk as a function (kind, fp32 array (rows, columns)) → bytes (rows, bytes per row)."""
    import ctypes

    import numpy as np
    import xllamacpp.xllamacpp as module

    function = ctypes.CDLL(module.__file__).ggml_quantize_chunk
    floats, number = ctypes.POINTER(ctypes.c_float), ctypes.c_int64
    function.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, number, number, number, floats]
    function.restype = ctypes.c_size_t

    def quantized(kind: str, weight):
        type_number, width, size = SIZES[kind]
        rows, columns = weight.shape
        weight = np.ascontiguousarray(weight, np.float32)
        out = np.empty((rows, columns // width * size), np.uint8)
        source = weight.ctypes.data_as(floats)
        written = function(type_number, source, out.ctypes.data, 0, rows, columns, None)
        if written != out.nbytes:
            raise RuntimeError(f"llama.cpp wrote {written} bytes for {kind} {weight.shape}, expected {out.nbytes}")
        return out

    return quantized


def quantize(checkpoint, scheme: dict, windows, out, device: str) -> None:
    """Write the blocks of every matrix into `out`; runs in the environment `gguf`, one matrix at a time."""
    from safetensors.numpy import save_file

    wanted = _artifact.matrices(quantization.tensors_on_disk(checkpoint))
    blocks = 1 + max(int(name.split(".layers.")[1].split(".")[0]) for name in wanted)
    to_blocks, stored, kinds = quantizer(), {}, {}
    for path in sorted(Path(checkpoint).glob("*.safetensors")):
        headers = quantization.tensors_on_disk(path)
        for name in wanted:
            if f"{name}.weight" in headers:
                weight = matrix(path, headers[f"{name}.weight"])
                kinds[name] = block_type(scheme["type"], name, blocks, weight.shape[1])
                stored[f"{name}.{kinds[name]}"] = to_blocks(kinds[name], weight)
    save_file(stored, str(Path(out) / "model.safetensors"))


def load(checkpoint, scheme: dict, device, artifact=None):
    """The dequantized model in eval mode; runs in the main environment."""
    return _artifact.load(checkpoint, artifact, device, lambda parts: stored(parts, scheme)[0])


def stored(parts: dict, scheme: dict):
    """(values, None, None) of one stored matrix: its codes have scales of scales, so values alone are compared."""
    from scripts.quantizers import _formats

    ((kind, blocks),) = parts.items()
    return _formats.gguf(blocks, kind), None, None
