"""Training with transformers' Trainer: ordinary fine-tuning; unlearning (unlearner.py) is built on it.

What differs from a plain Trainer, and why:

- The terms of the loss are run backward one after the other, so only one term's activations are alive at a time; the
  gradient is the sum.
- The optimiser is PrecisionAdamW: the precision of stored weights and moments is part of the experiment.
- A loss or gradient norm that is not finite ends the run as diverged, with the step: an outcome, not an error.
- Losses stay on the device and are read in blocks, because reading one number per step makes a GPU wait for the host.
- State is saved by time and on signals through ResumeStore, so that a run that was cut off ends in the same bits as
  one that was not.
"""

import math
import sys
from contextlib import nullcontext

import torch
from transformers.trainer import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging

from scripts.core.training import batching, losses, precision
from scripts.core.training.callbacks import Along, Progress, Saving
from scripts.core.training.hyperparameters import complete, trainer_arguments
from scripts.core.training.optimizer import PrecisionAdamW, bitsandbytes_adamw
from scripts.core.training.resume import Interruption, ResumeStore
from scripts.core.training.zero import leave_out
from scripts.core.weights.models import decoder_layers, quiet

RECORDS = 200  # points of the loss history that are kept


class Diverged(Exception):
    """A loss or gradient norm that is not finite; `step` counts optimiser steps from 1."""

    def __init__(self, step: int, what: str):
        super().__init__(f"{what} is not finite at step {step}")
        self.step, self.what = step, what


class RunTrainer(Trainer):
    """Token-mean cross-entropy on a data set of text chunks; the base of every training in this project.

    model: on its device already. dataset: of scripts/core/training/batching.py. training: spec["training"], completed by
    hyperparameters.DEFAULTS. store: a ResumeStore, or None for a run that can't be resumed. zero: a
    scripts.core.training.zero.Zero that was made before the model, when the training has several processes.

    After `run()`: `history`, a list of {"step", one entry per term, "total", "grad_norm", "lr"}; `interruption.signal`, which is
    None unless a signal cut the run off.
    """

    def __init__(self, model, dataset, training: dict, seed: int, store: ResumeStore | None = None, zero=None):
        training = complete(training)
        if store and store.cramped and not training["gradient_checkpointing"]:
            if zero is None or zero.first:
                print("an attempt found no room on its GPU: layers are computed again in the backward pass", file=sys.stderr)
            training["gradient_checkpointing"] = True
        if zero is None:
            leave_out()
        self.zero = zero
        self.training, self.store, self.interruption = training, store, Interruption()
        self.history, self._pending = [], []
        self.resumed = 0  # step of the saved state that the training went on from
        self.rows = {}  # parameters of which only some rows are trained, with the mask of those rows
        self._device = next(model.parameters()).device.type
        args = trainer_arguments(training, str(store.folder) if store else ".", seed, self._device, zero)
        super().__init__(model=model, args=args, train_dataset=dataset, data_collator=batching.collate)
        if training["compile"]:
            for layer in decoder_layers(model):  # one is compiled, all share the code
                layer.forward = torch.compile(layer.forward)  # not the call: hooks (rmu) stay outside
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        if zero is None or zero.first:
            self.add_callback(Progress(lambda: self.history))
        self.points = None
        if store:
            self.add_callback(Saving(training["save_minutes"], training["save_steps"], self.interruption, zero))

    # What is minimised: subclasses say which terms there are.

    def terms(self, model, batch):
        """Yield (name, weight, function that returns the term's scalar loss)."""
        yield "loss", 1.0, lambda: losses.cross_entropy(losses.forward(model, batch), batch)

    def before_term(self, name):
        """Called before a term runs backward."""

    def after_term(self, name):
        """Called after a term has run backward."""

    def before_step(self):
        """Called when the gradient of an optimiser step is complete, before it is clipped."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Accumulate the gradient of Σ weight · term over one micro-batch; returns the total as a detached scalar."""
        model.train()
        inputs, total, values, share = self._prepare_inputs(inputs), 0.0, {}, 1.0
        if self.zero:
            inputs, share = self.zero.rows(inputs)
        for name, weight, term in self.terms(model, inputs):
            with precision.autocast(self.training["weights"], self._device):
                value = term()
            if not isinstance(value, torch.Tensor) or value.ndim:
                raise ValueError(f"the {name} loss is {str(value)[:60]!r}; allowed: a scalar tensor")
            if not value.requires_grad and self.state.global_step == 0 and value != 0:  # once: reading it makes a GPU wait
                raise ValueError(f"the {name} loss has no gradient; allowed: one that was not detached from the weights, or 0")
            if value.requires_grad:
                self.before_term(name)
                self._backward(model, value * (weight * share / self.current_gradient_accumulation_steps))
                self.after_term(name)
            values[name] = value.detach().float() * share
            total = total + weight * values[name]
        values["total"] = total
        self._micro.append(values)
        if len(self._micro) == self.current_gradient_accumulation_steps:
            self.before_step()
            if self.zero:
                model.step()  # clips, too; Trainer's own step of the optimiser does nothing then
        return total

    def _backward(self, model, value):
        if self.zero:
            model.backward(value, scale_wrt_gas=False)
        else:
            value.backward()

    def get_train_dataloader(self):
        """The batches of one process, on every rank: `training_step` takes this rank's rows of each."""
        if self.zero is None:
            return super().get_train_dataloader()
        from accelerate.data_loader import prepare_data_loader
        from torch.utils.data import DataLoader

        sampler = self._get_train_sampler(self.train_dataset)
        batches = DataLoader(self.train_dataset, self.training["batch"], sampler=sampler, collate_fn=self.data_collator)
        same = dict(num_processes=1, process_index=0, use_seedable_sampler=True, data_seed=self.args.data_seed)
        return prepare_data_loader(batches, **same)

    # Watching: what a step gave, and whether it is still finite.

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        if self.zero:
            norm = torch.tensor(norm if norm is not None else model.get_global_grad_norm(), device=self.args.device)
        names = list(self._micro[0])
        stacked = torch.stack([torch.stack([micro[name] for micro in self._micro]).mean() for name in names])
        if self.zero:
            stacked = self.zero.mean(stacked)
        self._micro.clear()
        step = self.state.global_step + 1
        self._pending.append((step, [*names, "grad_norm"], torch.cat([stacked, norm.detach().float().reshape(1)]), self._lr()))
        # On a CPU reading is free, and a step that is not finite is caught before it is applied.
        if self._device == "cpu" or len(self._pending) >= 16:
            self._read()
        return norm

    def _lr(self) -> float:
        return self.lr_scheduler.get_last_lr()[0]

    def _read(self):
        """Bring pending values to the host; raise Diverged at the first step that is not finite."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        interval = max(1, math.ceil(self.state.max_steps / RECORDS))
        rows = torch.stack([values for _, _, values, _ in pending]).tolist()
        for (step, names, _, lr), row in zip(pending, rows, strict=True):
            bad = next((name for name, value in zip(names, row, strict=True) if not math.isfinite(value)), None)
            if bad or step % interval == 0 or step in (1, self.state.max_steps):
                finite = {name: value if math.isfinite(value) else None for name, value in zip(names, row, strict=True)}
                self.history.append({"step": step, **finite, "lr": lr})
            if bad:
                raise Diverged(step, "the gradient norm" if bad == "grad_norm" else f"the loss ({bad})")

    def floating_point_ops(self, inputs):
        """Not counted: the estimate would cost time in each step and is not used."""
        return 0

    # Optimiser and state.

    def create_optimizer(self, model=None):
        """PrecisionAdamW; weight decay spares norms and biases, as Trainer's own optimiser does."""
        if self.optimizer is None:
            decaying = set(self.get_decay_parameter_names(self.model))
            named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            groups = [
                {"params": [p for n, p in named if n in decaying], "weight_decay": self.training["weight_decay"]},
                {"params": [p for n, p in named if n not in decaying], "weight_decay": 0.0},
            ]
            groups = [group for group in groups if group["params"]]
            usual = {name: self.training[name] for name in ("lr", "eps")} | {"betas": tuple(self.training["betas"])}
            if self.training["optimizer"] != "adamw":
                self.optimizer = bitsandbytes_adamw(self.training["optimizer"], groups, **usual)
            else:
                kept = {name: self.training[name] for name in ("weights", "moments")}
                self.optimizer = PrecisionAdamW(groups, **usual, **kept, seed=self.args.seed)
                self.optimizer.rows = self.rows
        return self.optimizer

    def _save_checkpoint(self, model, trial):
        self._read()

        adapters = hasattr(self.model, "peft_config")

        def write(folder):
            # Of a model with LoRA only the updates are written; asking for the embeddings, too, would ask the hub.
            self.model.save_pretrained(folder, **({"save_embedding_layers": False} if adapters else {}))
            self._save_optimizer_and_scheduler(str(folder))
            self._save_rng_state(str(folder))
            # The control flags are left as they were at the start: a saved "stop" would stop the resumed run, too.
            self.state.save_to_json(str(folder / "trainer_state.json"))

        def write_part(folder):
            """What DeepSpeed does not save: the schedule, random states and counters."""
            if self.zero.first:
                torch.save(self.lr_scheduler.state_dict(), folder / "scheduler.pt")
                self.state.save_to_json(str(folder / "trainer_state.json"))
            self._save_rng_state(str(folder))

        if self.zero:
            self.zero.save(self.deepspeed, self.store, self.state.global_step, write_part, self._notes())
            return
        self.store.save(self.state.global_step, write, self._notes())

    def _notes(self) -> dict:
        """What is kept with a saved state."""
        return {"history": self.history} | ({"points": self.points.made()} if self.points else {})

    def keep_along(self, points, write) -> None:
        """Keep checkpoints along the training. points: scripts.core.training.points.Points; write(folder, state dict or None)."""
        self.points = points
        batches = math.ceil(len(self.train_dataset) / self.training["batch"])
        steps = points.steps(math.ceil(batches / self.training["accumulation"]))

        def keep(name, step):
            self._read()  # a run that has diverged by now has no checkpoint here
            state = self.zero.state_dict(self.deepspeed) if self.zero else None
            if self.zero is None or self.zero.first:
                points.write(name, step, lambda folder: write(folder, state), history=list(self.history))

        self.callback_handler.callbacks.insert(0, Along(steps, keep))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if hasattr(self.model, "peft_config"):
            from scripts.core.training import lora

            lora.load(self.model, resume_from_checkpoint)  # Trainer's own way may change the updates' dtype
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def run(self) -> int:
        """Train to the end, from saved state where there is some; returns the step reached. Raises Diverged."""
        state, self._micro = None, []
        if self.store:
            made = set(self.points.made()) if self.points else set()

            def latest():
                return self.store.latest(lambda notes: made >= set(notes.get("points", ())))

            state, notes = self.zero.in_turn(latest) if self.zero else latest()
            self.history, self.resumed = (notes["history"], notes["step"]) if state else ([], 0)
        quiet()
        previous = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        try:
            with self.interruption, self.store.noting_no_room() if self.store else nullcontext():
                self.train(resume_from_checkpoint=str(state) if state else None)
            self._read()
        finally:
            transformers_logging.set_verbosity(previous)
        self.model.zero_grad(set_to_none=True)
        return self.state.global_step
