"""Checkpoint folders as programs read them, whether their weights are whole or kept as a difference from the target."""

import shutil
from pathlib import Path

from scripts.core.weights import delta


def causal_lm(folder, **options):
    """The causal language model of a folder or hub id, as `from_pretrained` with `options` gives it.

    Weights come from safetensors alone and no code of a checkpoint is run. A difference is restored in memory; DeltaError when
    it can't be.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, GenerationConfig

    if not delta.is_packed(folder):
        return AutoModelForCausalLM.from_pretrained(str(folder), use_safetensors=True, trust_remote_code=False, **options)
    config, weights = AutoConfig.from_pretrained(folder, trust_remote_code=False), delta.Delta(folder).tensors()
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(None, config=config, state_dict=weights, **options)
    if (Path(folder) / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def plain_generation(model) -> None:
    """Leave a model's generation settings with the tokens that begin and end a text alone.

    Published Llamas have a temperature without do_sample, or a pad token of −1, which transformers before 5.20 refuses to save.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id)


def reader(folder) -> delta.Delta | delta.Weights:
    """What gives a tensor of a checkpoint folder by its name in the files, `.tensor(name)`; the others stay on disk."""
    return delta.Delta(folder) if delta.is_packed(folder) else delta.Weights(folder)


def restore(folder, out) -> None:
    """Copy a checkpoint folder, and folders below it, into the empty folder `out`; weights become whole files."""
    for path in sorted(Path(folder).rglob("*")):  # one by one: copytree goes on when the disk is full, and tells it of each file
        part = path.relative_to(folder)
        if path.is_dir() or any(name.startswith(".") for name in part.parts):
            continue
        target = Path(out) / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name == delta.FILE:
            delta.Delta(path.parent).restore(target.parent)
        else:
            shutil.copy2(path, target)
