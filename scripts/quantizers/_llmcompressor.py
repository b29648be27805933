"""llm-compressor's one-shot quantization and the reading of what it writes, shared by its two schemes."""

from scripts.quantizers import _artifact


def quantize(checkpoint, scheme: dict, windows: list[list[int]], out, device: str, gptq: bool) -> None:
    """Write a compressed-tensors checkpoint (pack-quantized) into `out`; runs in the environment `llmcompressor`.

    gptq: whether to make up for rounding errors (GPTQModifier) or only round (QuantizationModifier, no calibration).
    """
    import torch
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    from scripts.core.weights import checkpoints

    weights = {"num_bits": scheme["bits"], "type": "int", "symmetric": scheme["symmetric"]}
    weights |= {"strategy": "group", "group_size": scheme["group"]} if scheme["group"] else {"strategy": "channel"}
    common = {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype="auto", use_safetensors=True).to(device)
    checkpoints.plain_generation(model)
    if gptq:
        from datasets import Dataset

        recipe = GPTQModifier(actorder=scheme["act_order"], dampening_frac=scheme["damp"], **common)
        ones = [[1] * len(window) for window in windows]
        data = Dataset.from_dict({"input_ids": windows, "attention_mask": ones})
        limits = {"max_seq_length": len(windows[0]), "num_calibration_samples": len(windows)}
        oneshot(model=model, recipe=recipe, dataset=data, shuffle_calibration_samples=False, **limits)
    else:
        oneshot(model=model, recipe=QuantizationModifier(**common))
    with torch.no_grad():
        model.save_pretrained(str(out), save_compressed=True)


def load(checkpoint, scheme: dict, device, artifact=None):
    """The dequantized model in eval mode; runs in the main environment."""
    from scripts.quantizers import _formats

    return _artifact.load(checkpoint, artifact, device, lambda parts: _formats.pack_quantized(parts, scheme["bits"]))


def stored(parts: dict, scheme: dict):
    """(values, codes, edge) of one stored matrix, see docs/mechanism.md."""
    from scripts.quantizers import _formats

    return _formats.stored(_formats.pack_quantized(parts, scheme["bits"]), parts, scheme["bits"])
