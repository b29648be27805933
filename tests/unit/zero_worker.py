"""One of the two ranks of test_zero.py: runs the unlearning program several times in one process group.

usage: torchrun --nproc-per-node 2 tests/unit/zero_worker.py FOLDER, with FOLDER/cases.json a list of
{"name", "arguments": of scripts.unlearn, "storage": null or a dtype that is forced, "signal_at": null or a step}.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from scripts import unlearn
from scripts.core.training import precision, unlearner


def interrupt_at(step: int):
    """Send a signal to the second rank alone while a step of the training runs."""
    inner = unlearner.UnlearnTrainer.training_step

    def training_step(self, *arguments):
        if self.state.global_step + 1 == step and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(self, *arguments)

    unlearner.UnlearnTrainer.training_step = training_step
    return inner


def main(folder: Path) -> None:
    """Run the cases; write what each exits with, and what the trained tensors and moments were, beside cases.json."""
    from accelerate.state import AcceleratorState
    from transformers import training_args

    training_args.is_torch_bf16_gpu_available = lambda: True  # bfloat16 tensors are for GPUs; a CPU can compute with them
    torch.set_num_threads(1)
    storage_dtype, step, run = precision.storage_dtype, unlearner.UnlearnTrainer.training_step, unlearner.UnlearnTrainer.run
    for case in json.loads((folder / "cases.json").read_text()):
        precision.storage_dtype = (lambda kind: lambda *_: kind)(case["storage"]) if case["storage"] else storage_dtype
        if case["signal_at"]:
            interrupt_at(case["signal_at"])
        seen = {}

        def observed(self, seen=seen):
            reached = run(self)
            optimizer = self.deepspeed.optimizer.optimizer
            masters = [
                p for group in optimizer.param_groups for p in group["params"]
            ] or self.deepspeed.optimizer.fp32_partitioned_groups_flat
            seen["masters"] = sorted({str(p.dtype) for p in masters})
            seen["moments"] = sorted({str(s["exp_avg"].dtype) for s in optimizer.state.values() if "exp_avg" in s})
            seen["model"] = str(next(self.model.parameters()).dtype)
            return reached

        unlearner.UnlearnTrainer.run = observed
        code = unlearn.main(case["arguments"])
        unlearner.UnlearnTrainer.training_step, unlearner.UnlearnTrainer.run = step, run
        AcceleratorState._reset_state(reset_partial_state=True)
        if os.environ["RANK"] == "0":
            (folder / f"{case['name']}.json").write_text(json.dumps({"code": code, **seen}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
