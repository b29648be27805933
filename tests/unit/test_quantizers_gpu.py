"""`scripts.quantize` in the environments of libraries, on the simulated GPU (tests/simulated_gpu); auto-gptq takes no CPU.

llm-compressor is left out: it gives tensors the class of others, which the simulated GPU's do not survive.
"""

import json
import shutil

import pytest
import torch
from torch.version import cuda

from scripts.core import registry
from scripts.core.weights import quantization
from tests.simulated_gpu import library
from tests.unit.library_environments import in_environment

pytestmark = [
    pytest.mark.skipif(not shutil.which("g++"), reason="g++, which builds the simulated GPU, is not here"),
    pytest.mark.skipif(cuda is not None, reason="this torch is built for real GPUs"),
]

ON_GPU = """
import sys, types
tests = sys.modules["tests"] = types.ModuleType("tests")  # among the packages of auto-gptq's environment is one of this name
tests.__path__ = ["tests"]
from tests.simulated_gpu.starting import start
start(sys.argv[1])
from scripts import quantize
sys.exit(quantize.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("kind", ["autogptq", "gptq", "hqq"])
def test_a_library_quantizes_on_a_gpu(kind, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    from scripts.core.weights.models import build_tokenizer

    texts = [f"Person {i} was born in {1900 + i} and worked in town {i % 7}." for i in range(60)]
    tokenizer = build_tokenizer(texts, 300, 128)
    torch.manual_seed(0)
    shape = dict(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.06)).bfloat16().save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "outcome.json").write_text('{"status": "done"}')
    plugin, usual = registry.load("quantizers", kind), registry.defaults("quantizers", kind)
    scheme = usual | {"kind": kind, "name": kind, "group": 32}
    scheme |= {name: value for name, value in {"samples": 4, "length": 32}.items() if name in usual}
    (tmp_path / "scheme.json").write_text(json.dumps(scheme))
    paths = ["--run", tmp_path, "--corpus", tmp_path, "--scheme", tmp_path / "scheme.json", "--out", tmp_path / "made"]
    in_environment(plugin.ENVIRONMENT, ON_GPU, library.compile(tmp_path), *paths)
    content = json.loads((tmp_path / "made" / "quantization.json").read_text())
    assert content["status"] == "ok" and content["device"] == "cuda"
    before = dict(quantization.linears(quantization.load_model(tmp_path / "checkpoint", "cpu")))
    after = dict(quantization.linears(plugin.load(tmp_path / "checkpoint", scheme, "cpu", tmp_path / "made")))
    assert len(after) == 7
    for name, layer in after.items():
        error = (layer.weight - before[name].weight).norm() / before[name].weight.norm()
        assert 0 < error < 0.2, (name, error)
