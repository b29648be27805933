"""One unlearning run: what it starts from, its training, and what it leaves."""

import copy
import sys
from functools import cached_property, partial

from torch.utils.data import DataLoader

from scripts.core import storage
from scripts.core.planning import naming
from scripts.core.training import batching, hyperparameters, lora, precision, runs, saliency, trainer, unlearner
from scripts.core.training.distributions import TablePlan
from scripts.core.training.objective import Objective
from scripts.core.training.points import Points
from scripts.core.training.reference import Reference
from scripts.core.training.resume import ResumeStore
from scripts.core.weights import models


def asked_rows(objective: Objective, rows: dict) -> dict:
    """{split: (N, T)}: rows whose distributions θ_0 is asked for; of retain chunks only those paired with a forget chunk."""
    method, regularizer = (bool({"distribution", "logits"} & set(part.module.NEEDS)) for part in objective.parts)
    asked = {}
    if method:
        asked["forget"] = rows["forget"]
    if regularizer or (method and objective.keeps):
        asked["retain"] = rows["retain1"][: len(rows["forget"])]
    return asked


class Unlearning:
    """A run of a method that trains.

    spec: of stage "unlearn". options: arguments of scripts.unlearn. texts: {"forget": strings, "retain1": strings where they are
    read}. ValueError for what the spec, the model or the launch does not allow.
    """

    def __init__(self, spec, options, provenance, texts, device):
        self.spec, self.options, self.provenance, self.device = spec, options, provenance, device
        self.objective = Objective.of(spec["method"], spec["regularizer"])
        self.settings = settings = hyperparameters.complete(spec["training"]) | {"save_minutes": options.save_minutes}
        settings["save_steps"] = options.save_steps or settings["save_steps"]
        self.zero = runs.sharding(options, settings, precision.storage_dtype(settings["weights"], device))
        self.autocast = partial(precision.autocast, settings["weights"], device)
        self.network, self.tokenizer = self.target(), models.load_tokenizer(options.target / "checkpoint")
        length = spec["corpus"]["max_length"]
        models.check_length(self.network, length)
        self.rows = {split: batching.chunks(part, self.tokenizer, length) for split, part in texts.items()}
        self.dataset = batching.ForgetRetainDataset(self.rows["forget"], self.rows.get("retain1"))

    def target(self):
        """θ_0 in the precision of the training."""
        weights = self.settings["weights"]
        kind = precision.storage_dtype(weights, self.device)
        model = models.load_model(self.options.target / "checkpoint", kind, self.device, self.settings["attention"])
        if weights != "fp32":
            precision.to_bf16_grid(model)
        return model

    def forget_batches(self, sampler=None):
        """Batches of the forget set, in order, as large as training's."""
        batches = DataLoader(self.dataset, self.settings["batch"], sampler=sampler, collate_fn=batching.collate)
        return (batch["forget"] for batch in batches)

    @cached_property
    def reference(self) -> Reference:
        """What the losses need of θ_0, recorded before the first step where it can be."""
        zero, settings, needs = self.zero, self.settings, self.objective.needs
        passes = hyperparameters.passes(settings, len(self.dataset))
        asked = asked_rows(self.objective, self.rows)
        return Reference.of(
            self.network,
            self.forget_batches(zero and zero.sampler(self.dataset)),
            needs,
            autocast=self.autocast,
            frozen=zero.frozen(self.target()) if zero and zero.stage == 3 and needs - {"retain"} else None,
            gather=zero and zero.gathered,
            kind=settings["reference"],
            table=None if zero else TablePlan(asked, settings["batch"], self.options.out, passes, settings["reference_k"]),
        )

    def mask(self, again: bool):
        """The mask of what may be trained, which is also written; None for runs without one. again: layers are computed again."""
        if self.settings["saliency"] == "none":
            return None
        # Trainer turns it on later, and this backward pass keeps as much as training's.
        if again or self.settings["gradient_checkpointing"]:
            self.network.activation_checkpointing_enable(hyperparameters.RECOMPUTING)
        mask = saliency.mask_of(
            self.network,
            self.forget_batches(),
            lambda model, batch: self.objective.forget(model, batch, self.reference),
            kind=self.settings["saliency"],
            percentile=self.settings["percentile"],
            autocast=self.autocast,
            zero=self.zero,
        )
        if self.zero is None or self.zero.first:
            mask.save(self.options.out)
        return mask

    def adapted(self):
        """θ_0 as it is trained: with LoRA's updates where the spec asks for them."""
        if self.settings["parameters"] != "lora":
            return self.network
        network = lora.wrap(self.network, self.settings, self.spec["seed"])
        if self.settings["weights"] != "fp32":
            precision.to_bf16_grid(network)
        return network

    def save(self, folder, state, last: bool) -> None:
        """Write the model as a checkpoint folder. state: its state dict under ZeRO, else None; last: it is not trained on."""
        network = self.network
        if self.settings["parameters"] == "lora":
            network = lora.merge(network if last else copy.deepcopy(network))  # merging changes it
        models.save_checkpoint(network, self.tokenizer, folder, self.settings["store"], state)

    def train(self, training) -> tuple[str, int]:
        """(status, step) of a training that was run: "done", also where a signal cut it off, or "diverged"."""
        try:
            with self.provenance.working():
                return "done", training.run()
        except trainer.Diverged as error:
            print(f"diverged: {error}", file=sys.stderr)
            return "diverged", error.step

    def run(self, kept_from) -> int:
        """Train and write; the exit code. kept_from: checkpoint that weights are kept as a difference from, or None."""
        spec, out, zero = self.spec, self.options.out, self.zero
        digest = runs.inputs_digest(spec, self.options.corpus, self.options.target, zero=zero)
        store, points = ResumeStore(out / ".resume", digest), Points(out, naming.points(spec), digest, self.provenance, kept_from)
        with self.provenance.working(), store.noting_no_room():
            reference, mask = self.reference, self.mask(again=store.cramped)
        self.network = self.adapted()
        training = unlearner.UnlearnTrainer(
            self.network,
            self.dataset,
            self.settings,
            spec["seed"],
            self.objective,
            reference,
            store=store,
            mask=mask,
            zero=zero,
        )
        if points.names:
            training.keep_along(points, partial(self.save, last=False))
        status, step = self.train(training)
        if training.interruption.signal and status == "done":
            return training.interruption.exit_code
        state = zero.state_dict(training.deepspeed) if zero and status == "done" else None
        if zero and not zero.first:
            return 0

        def write(folder):
            if status == "done":
                self.save(folder, state, last=True)
            else:
                storage.write_json(folder / "diverged.json", {"status": status, "step": step})

        record = dict(history=training.history, resumed=training.resumed, chunks=len(self.dataset), device=self.device)
        record |= {"recomputed": True} if training.training["gradient_checkpointing"] else {}
        points.publish(status, step)
        runs.finish(out, self.provenance, write, step, status, kept_from, **record, **reference.facts)
        store.clear()
        return 0
