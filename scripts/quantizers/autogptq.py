"""GPTQ through auto-gptq 0.7.1, the library of the time of the paper, in its own environment.

It is archived and quantizes on CUDA only; it is here to compare its results with GPTQModel's, which writes the same format.
Formulas: see gptq.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.core import storage
from scripts.quantizers import gptq

SHARES = ("_gptq", "_calibrated")
ENVIRONMENT = "autogptq"
ARTIFACT = True
HARDWARE = ["cuda"]
SERVED = True
SOURCE = "auto-gptq 0.7.1 with transformers 4.46.3"
check, load, stored, describe = gptq.check, gptq.load, gptq.stored, gptq.describe


def prepare() -> None:
    """Import what takes longer to import than a small model to quantize, so that seconds are of the latter."""
    import auto_gptq  # noqa: F401


def older(config: dict) -> dict:
    """A config.json as transformers 4 reads it: the rotary positions' settings at its top, else they are the defaults."""
    rope = dict(config.get("rope_parameters") or {})
    found = config | ({"rope_theta": rope.pop("rope_theta")} if "rope_theta" in rope else {})
    return found | ({"rope_scaling": rope} if rope.get("rope_type", "default") != "default" else {})


def quantize(checkpoint, scheme: dict, windows: list[list[int]], out, device: str) -> None:
    """Write a GPTQ checkpoint into `out`; runs in the environment `autogptq`, on CUDA only."""
    import torch
    from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig

    settings = BaseQuantizeConfig(
        bits=scheme["bits"],
        group_size=scheme["group"] or -1,
        sym=scheme["symmetric"],
        desc_act=scheme["act_order"],
        damp_percent=scheme["damp"],
    )
    examples = [{"input_ids": torch.tensor([w]), "attention_mask": torch.ones(1, len(w), dtype=torch.long)} for w in windows]
    with TemporaryDirectory() as folder:
        for path in Path(checkpoint).resolve().iterdir():
            (Path(folder) / path.name).symlink_to(path)
        place = Path(folder) / "config.json"
        config = older(storage.read_json(place))
        place.unlink()
        storage.write_json(place, config)
        model = AutoGPTQForCausalLM.from_pretrained(folder, settings)
    # It moves embeddings, layers and norm to the GPU by name, and leaves the rotary positions, which transformers 4.46 keeps beside
    # them, on the CPU.
    model.model.base_model.rotary_emb.to(device)
    model.quantize(examples)
    model.save_quantized(str(out), use_safetensors=True)
