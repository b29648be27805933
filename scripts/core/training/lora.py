"""Low-rank updates (LoRA, through PEFT) that are merged before a checkpoint is stored, so that all else sees a plain model.

Hu et al. 2022 (arXiv 2106.09685): W' = W + (α / rank) · B A, with A random and B = 0 at the start. Only A and B are
trained; the precision of weights and moments is theirs. The merge is made in float32 and rounded once, when stored.
"""

from pathlib import Path

import torch

from scripts.core.planning import layers


def targets(model, wanted: str) -> list[str]:
    """Full names of the Linear layers that get an update. ValueError for an ending that no layer has.

    wanted: "all" for those of the decoder (the output head is left out), or endings joined with "+".
    """
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head]
    return layers.chosen(names, wanted, "training.lora_targets")


def wrap(model, training: dict, seed: int):
    """The model with updates of training["rank"], ["lora_alpha"], ["lora_targets"]; all else is frozen.

    A is a pure function of the seed. The updates are stored in the dtype of the weights.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=training["rank"],
        lora_alpha=training["lora_alpha"],
        target_modules=targets(model, training["lora_targets"]),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config, autocast_adapter_dtype=False)


def load(model, folder) -> None:
    """Read the updates that `save_pretrained` wrote, in place and in the dtype they are held in."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result = set_peft_model_state_dict(model, load_file(Path(folder) / "adapter_model.safetensors"))
    if result.unexpected_keys:
        raise ValueError(f"{folder}: unknown weights {result.unexpected_keys[0]!r}; allowed: the state of this very run")


def merge(model):
    """The plain model with the updates added to its weights, in float32."""
    return model.float().merge_and_unload()
