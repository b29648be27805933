"""Code of libraries that live in environments of their own, and what it reads.

A test of a library is skipped where its environment has not been made, and unless TEST_ENVIRONMENTS=1 is set, because the
libraries take minutes to import and run on two cores.
"""

import os
import subprocess

import pytest

from scripts.core import isolation, registry

ROOT = registry.SCRIPTS.parent


def python(environment):
    """Interpreter of an environment; skips the test where it is missing or not asked for."""
    if environment != isolation.MAIN and os.environ.get("TEST_ENVIRONMENTS") != "1":
        pytest.skip(f"needs environment {environment!r}: set TEST_ENVIRONMENTS=1 to run it")
    try:
        return isolation.interpreter(environment)
    except isolation.MissingEnvironment as error:
        pytest.skip(str(error))


def in_environment(environment, code, *arguments):
    """Run Python code in an environment, from the project's root."""
    command = [python(environment), "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr[-2000:]


READERS = {  # a program in the library's own environment that dequantizes with the library's own code
    "gptq": """
import sys, torch
from gptqmodel import BACKEND, GPTQModel
from safetensors.torch import save_file
model = GPTQModel.load(sys.argv[1], backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16).model
layers = {n: m for n, m in model.named_modules() if hasattr(m, "qweight")}
found = {f"{n}.weight": m.dequantize_weight().T.float().contiguous() for n, m in layers.items()}
save_file(found, sys.argv[2])
""",
    "llmcompressor": """
import sys, torch
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor as Compressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import load_file, save_file
symmetric, layers, found = sys.argv[3] == "True", {}, {}
for key, tensor in load_file(sys.argv[1] + "/model.safetensors").items():
    layer, part = key.rsplit(".", 1)
    layers.setdefault(layer, {})[part] = tensor
weights = QuantizationArgs(num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=32)
scheme = QuantizationScheme(targets=["Linear"], weights=weights)
for layer, parts in layers.items():
    if "weight_packed" in parts:
        parts["weight_scale"] = parts["weight_scale"].float()
        found[layer + ".weight"] = Compressor.decompress(parts, scheme)["weight"].float().contiguous()
save_file(found, sys.argv[2])
""",
    "gguf": """
import sys, numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from safetensors.numpy import load_file, save_file
found = {}
for key, blocks in load_file(sys.argv[1] + "/model.safetensors").items():
    layer, kind = key.rsplit(".", 1)
    found[layer + ".weight"] = dequantize(blocks, Kind[kind.upper()])
save_file(found, sys.argv[2])
""",
}
