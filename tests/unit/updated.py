"""A target and a small update of it, with schemes, a corpus and a tokenizer: what tests of an update's effect read."""

import json

import torch
from safetensors.torch import load_file

from scripts.core.weights import quantization
from scripts.quantizers import _artifact

SCHEMES = {
    "full": {"kind": "full"},
    "fp4": {"kind": "bnb_fp4"},
    "fp4_double": {"kind": "bnb_fp4", "double": True},
    "nf4": {"kind": "bnb_nf4"},
    "int8": {"kind": "bnb_int8", "threshold": 6.0},
    "tensor": {"kind": "rtn", "bits": 4, "granularity": "tensor"},
    "group": {"kind": "rtn", "bits": 3, "granularity": "group", "group": 32, "symmetric": False},
}


def build(folder):
    """Write the runs `target` and `run` (a small update of it in bf16), schemes and a corpus below `folder`; returns it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from scripts.core.weights.models import build_tokenizer

    texts = [f"Person {i} lives in town {i % 7}." for i in range(30)]
    tokenizer = build_tokenizer(texts, 280, 64)
    torch.manual_seed(0)
    shape = dict(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    model = LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.1, pad_token_id=0)).bfloat16()
    for name, scale in (("target", 0.0), ("run", 2e-4)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(scale * torch.randn_like(parameter, dtype=torch.float32).sign().bfloat16())
        model.save_pretrained(folder / name / "checkpoint")
        tokenizer.save_pretrained(folder / name / "checkpoint")
        (folder / name / "outcome.json").write_text(json.dumps({"status": "done", "weights": name}))
    (folder / "run" / "spec.json").write_text(json.dumps({"corpus": {"max_length": 32}}))
    (folder / "corpus/data/raw").mkdir(parents=True)
    (folder / "corpus/data/raw/forget.json").write_text(json.dumps(texts))
    for name, scheme in SCHEMES.items():
        (folder / f"{name}.json").write_text(json.dumps({"scheme": {"name": name} | scheme, "metrics": {}}))
    return folder


def weights(folder):
    """({layer: fp32 w_0}, {layer: fp32 w}) of the matrices that schemes quantize."""
    found = []
    for name in ("target", "run"):
        content = load_file(folder / name / "checkpoint/model.safetensors")
        names = _artifact.matrices(quantization.tensors_on_disk(folder / name / "checkpoint"))
        found.append({layer: content[f"{layer}.weight"].float() for layer in names})
    return found
