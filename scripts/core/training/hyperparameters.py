"""The settings of a training: defaults, what is allowed, and what follows from them."""

import math

from transformers.training_args import TrainingArguments

from scripts.core.training.optimizer import OPTIMIZERS
from scripts.core.training.reference import KINDS

DEFAULTS = {
    "weights": "fp32",
    "moments": "auto",
    "epochs": 1,
    "max_steps": None,
    "batch": 4,
    "accumulation": 1,
    "clip": 1.0,
    "schedule": "constant",
    "warmup": 0,
    "weight_decay": 0.0,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "store": "bf16",
    "saliency": "none",
    "percentile": 90.0,
    "sure_double": False,
    "parameters": "full",
    "rank": 8,
    "lora_alpha": 16.0,
    "lora_targets": "all",
    "checkpoint_at": (),
    "reference": "auto",
    "reference_k": 64,
    "gradient_checkpointing": False,
    "attention": "sdpa",
    "compile": False,
    "optimizer": "adamw",
    "save_minutes": 10,
    "save_steps": None,
}
RECOMPUTING = {"use_reentrant": False}  # how gradient checkpointing is done
CHOICES = {
    "schedule": ("constant", "cosine", "linear"),
    "saliency": ("none", "module", "row-fixed", "row-step"),
    "parameters": ("full", "lora"),
    "reference": KINDS,
    "attention": ("sdpa", "flash_attention_2", "eager"),
    "optimizer": OPTIMIZERS,
}


def complete(training: dict) -> dict:
    """spec["training"] with defaults filled in. ValueError names a key that is missing, unknown or out of bounds."""
    unknown = sorted(set(training) - set(DEFAULTS) - {"lr"})
    if unknown:
        raise ValueError(f"training.{unknown[0]}: unknown key; known: {', '.join(sorted({*DEFAULTS, 'lr'}))}")
    full = {**DEFAULTS, **{key: value for key, value in training.items() if value is not None}}
    try:
        full["lr"] = float(full["lr"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f'training.lr: {full.get("lr")!r} is not allowed; allowed: a number, e.g. "1e-5"') from None
    if not (math.isfinite(full["lr"]) and full["lr"] >= 0):
        raise ValueError(f"training.lr: {full['lr']!r} is not allowed; allowed: a finite number ≥ 0")
    for key, allowed in CHOICES.items():
        if full[key] not in allowed:
            raise ValueError(f"training.{key}: {full[key]!r} is not allowed; allowed: {', '.join(allowed)}")
    if not 0 <= full["percentile"] <= 100:
        raise ValueError(f"training.percentile: {full['percentile']!r} is not allowed; allowed: 0 to 100")
    if full["max_steps"] is not None:
        full["epochs"] = 1  # the steps decide; the spec may leave the epochs null
    for key in ("batch", "accumulation", "epochs"):
        if full[key] < 1:
            raise ValueError(f"training.{key}: {full[key]!r} is not allowed; allowed: at least 1")
    if full["moments"] == "auto":
        full["moments"] = "fp32" if full["weights"] == "fp32" else "bf16"
    if full["optimizer"] != "adamw" and (full["weights"] != "fp32" or full["saliency"].startswith("row")):
        raise ValueError(
            f"training.optimizer: {full['optimizer']!r} is not allowed with weights {full['weights']!r} and saliency "
            f"{full['saliency']!r}; allowed: adamw, or weights fp32 without a mask of rows"
        )
    return full


def passes(training: dict, rows: int) -> float:
    """How often a completed training reads each of its rows."""
    steps = training["max_steps"]
    return training["epochs"] if steps is None else steps * training["batch"] * training["accumulation"] / rows


def trainer_arguments(training: dict, folder: str, seed: int, device: str, zero) -> TrainingArguments:
    """A completed training's settings as Trainer takes them. folder: of its saved states; zero: as in RunTrainer."""
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=training["batch"] // (zero.size if zero else 1),
        gradient_accumulation_steps=training["accumulation"],
        num_train_epochs=training["epochs"],
        max_steps=training["max_steps"] or -1,
        max_grad_norm=training["clip"] or 0.0,
        warmup_steps=training["warmup"],
        lr_scheduler_type="constant_with_warmup" if training["schedule"] == "constant" else training["schedule"],
        learning_rate=training["lr"],
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu" and not zero,
        deepspeed=zero.config if zero else None,
        bf16=bool(zero and zero.storage == "bf16"),  # only DeepSpeed's integration reads it
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device != "cpu",
        log_level="error",
        activation_checkpointing=training["gradient_checkpointing"],
        activation_checkpointing_kwargs=RECOMPUTING,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # never DataParallel: it would change the batch
    return arguments
