"""One training on several GPUs: DeepSpeed's ZeRO under transformers' Trainer, with our optimiser and our precisions.

The batch of a spec is the batch of all ranks together. Every rank reads the batches that a single process would read and
takes its rows of each, so losses, and with them scores, do not depend on the number of GPUs beyond rounding.

What DeepSpeed writes is what `weights` says. Weights that are kept as bfloat16 have no float32 master: DeepSpeed's
`bf16_master_weights_and_grads` makes the partitions that the optimiser steps bfloat16 themselves. Where they must be
float32 (offload, and float32 storage on a CPU) PrecisionAdamW rounds each step's result to the bfloat16 grid, and a
float32 tensor that holds bfloat16 values is no better than a bfloat16 one. With `weights: fp32` model, gradients and
masters are float32 and products are made under bfloat16 autocast, as on one GPU.

Each term of a loss runs backward by itself and is reduced at once into this rank's part of the gradient
(`managed_gradient_accumulation: false`); one step ends them.
"""

import os
from dataclasses import dataclass

STAGES = (2, 3)
OFFLOADS = ("none", "cpu")


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training: rank of `size`, and the index of its GPU on its node."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls):
        """As torchrun tells it; alone where nobody does."""
        return cls(*(int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))))


def leave_out() -> None:
    """Keep DeepSpeed out of a process that does not use it: Accelerate imports it (0.8 s) to look at a model's type."""
    import accelerate.utils.other

    accelerate.utils.other.is_deepspeed_available = lambda: False


def check(stage: int, offload: str, training: dict, ranks: int) -> None:
    """ValueError for a launch that ZeRO here does not support. training: completed settings; ranks: how many there are."""
    for key, value, known in (("zero", stage, STAGES), ("offload", offload, OFFLOADS)):
        if value not in known:
            raise ValueError(f"resources.{key}: {value!r} is not allowed; allowed: {', '.join(map(str, known))}")
    batch = training["batch"]
    if batch % ranks:
        raise ValueError(
            f"training.batch: {batch!r} is not allowed on {ranks} GPUs; allowed: a multiple of {ranks} (batch counts all GPUs)"
        )
    for key, allowed in (("reference", ("auto", "resident")), ("optimizer", ("adamw",)), ("compile", (False,))):
        if training[key] not in allowed:
            words = ", ".join(str(value).lower() for value in allowed)
            raise ValueError(f"training.{key}: {training[key]!r} is not allowed on several GPUs; allowed: {words}")
    if training["saliency"].startswith("row"):
        raise ValueError("training.saliency: rows are chosen on one GPU only; allowed: resources.gpus 1, or module")
    if stage == 3 and (training["saliency"] != "none" or training["parameters"] == "lora"):
        raise ValueError("resources.zero: 3 is not allowed with saliency or LoRA; allowed: 2")


class Zero:
    """ZeRO of a stage (2: gradients and optimiser state are divided, 3: weights too), optimiser state on the CPU or not.

    Made before any model is loaded: it starts the process group, and from then on ZeRO-3 has each model divided while it
    is read. storage: dtype of the model's tensors, "bf16" or "fp32". ValueError for what is not supported.
    """

    def __init__(self, stage: int, offload: str, training: dict, storage: str, ranks: Ranks | None = None):
        self.stage, self.offload, self.storage = stage, offload, storage
        self.ranks = ranks or Ranks.of_environment()
        check(stage, offload, training, self.ranks.size)
        import torch

        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        else:
            torch.cuda.set_device(self.ranks.local)
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        import deepspeed
        from deepspeed.utils import logger
        from transformers.integrations import HfDeepSpeedConfig

        logger.setLevel("ERROR")
        if not torch.cuda.is_available():  # or it compiles an exchange through shared memory at each first use
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo", auto_mpi_discovery=False, verbose=False)
        self.config = self._config(training, torch.cuda.is_available())
        self._kept = HfDeepSpeedConfig(self.config)  # transformers looks at it while it loads models, through a weak reference

    def _config(self, training: dict, cuda: bool) -> dict:
        zero = {"stage": self.stage, "overlap_comm": self.stage == 2 and cuda, "contiguous_gradients": True}
        if self.stage == 3:
            zero |= {
                "stage3_gather_16bit_weights_on_model_save": True,
                "stage3_prefetch_bucket_size": "auto",
                "stage3_param_persistence_threshold": "auto",
            }
        if self.offload == "cpu":
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
            if self.stage == 3:
                zero["offload_param"] = {"device": "cpu", "pin_memory": cuda}
        config = {
            "train_micro_batch_size_per_gpu": training["batch"] // self.ranks.size,
            "gradient_accumulation_steps": training["accumulation"],
            "gradient_clipping": training["clip"] or 0.0,
            "managed_gradient_accumulation": False,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # PrecisionAdamW steps on the CPU as well
            "steps_per_print": None,
        }
        if self.storage == "bf16":
            masters = self.offload == "none"
            config["bf16"] = {"enabled": True, "bf16_master_weights_and_grads": masters, "bf16_optimizer_states": masters}
        elif cuda:  # DeepSpeed turns an outer autocast off; no module's gradients are sent in less than float32
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
        return config

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.ranks.size

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and speaks."""
        return self.ranks.rank == 0

    @property
    def layout(self) -> dict:
        """What a saved state fits: another number of ranks or stage can't read it."""
        return {"ranks": self.ranks.size, "zero": self.stage, "offload": self.offload}

    # Data: this rank's rows of a batch that all ranks know.

    def rows(self, batch: dict):
        """(this rank's part of a batch, its share): the mean over ranks of share · mean loss is the whole batch's mean.

        Rank r takes rows r, r + size, …. A rank that gets none of a short last batch runs row 0 with share 0, because every
        rank has to take part in every exchange.
        """
        count = len(_first_tensor(batch))
        own = len(range(self.ranks.rank, count, self.ranks.size))
        chosen = slice(self.ranks.rank, None, self.ranks.size) if own else slice(0, 1)
        return _sliced(batch, chosen), own * self.ranks.size / count

    def sampler(self, dataset):
        """This rank's rows for one pass over a data set, as many on every rank: some come twice."""
        from torch.utils.data import DistributedSampler

        return DistributedSampler(dataset, self.ranks.size, self.ranks.rank, shuffle=False)

    # Exchange.

    def gathered(self, tensor):
        """The tensors (same shape on every rank) of all ranks, concatenated."""
        import torch

        parts = [torch.empty_like(tensor) for _ in range(self.ranks.size)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def mean(self, tensor):
        """The mean over ranks."""
        import torch

        tensor = tensor.clone()
        torch.distributed.all_reduce(tensor)
        return tensor / self.ranks.size

    def largest(self, *values: int) -> list[int]:
        """The largest of each value over all ranks, so that all decide alike."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        tensor = torch.tensor(values, dtype=torch.int64, device=device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return tensor.tolist()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.largest(0)

    def in_turn(self, action):
        """What `action()` returns; the first rank does it before the others."""
        found = action() if self.first else None
        self.barrier()
        return found if self.first else action()

    # Models and state.

    def frozen(self, model):
        """A model that is only asked, divided over the ranks where the stage is 3; the result is called like the model."""
        model.eval().requires_grad_(False)
        if self.stage != 3:
            return model
        import deepspeed

        own = {key: value for key, value in self.config.items() if key not in ("zero_allow_untested_optimizer", "bf16")}
        own["zero_optimization"] = {key: value for key, value in self._resolved(model).items() if key != "offload_optimizer"}
        if self.storage == "bf16":
            own["bf16"] = {"enabled": True}
        engine, *_ = deepspeed.initialize(model=model, config=own)
        engine.eval()
        return engine

    def _resolved(self, model) -> dict:
        zero, hidden = dict(self.config["zero_optimization"]), model.config.hidden_size
        zero["stage3_prefetch_bucket_size"] = int(0.9 * hidden * hidden)
        zero["stage3_param_persistence_threshold"] = 10 * hidden
        return zero

    def save(self, engine, store, step: int, write, notes: dict) -> None:
        """Every rank writes its part of the state into one folder, which the first rank makes and renames."""

        def together(folder):
            self.barrier()
            engine.save_checkpoint(str(folder), exclude_frozen_parameters=True)
            write(folder)
            self.barrier()

        if self.first:
            store.save(step, together, notes)
        else:
            together(store.partial(step))
        self.barrier()

    def state_dict(self, engine) -> dict | None:
        """All weights in their own precision, on the CPU of the first rank; every rank has to call. None at stage 2."""
        return engine._zero3_consolidated_16bit_state_dict() if self.stage == 3 else None


def _first_tensor(batch):
    for value in batch.values():
        if isinstance(value, dict):
            return _first_tensor(value)
        if value is not None:
            return value
    raise ValueError("an empty batch")


def _sliced(batch, chosen):
    if batch is None:
        return None
    if not isinstance(batch, dict):
        return batch[chosen]
    return {key: _sliced(value, chosen) for key, value in batch.items()}
