"""Two whole models in memory, full float32 logits, one backward pass through all terms at once: Trainer's compute_loss.

The formulas are those of scripts/methods and scripts/regularizers (so that losses can be compared), the way of computing them is
the published code's: the target is loaded twice, and the copy runs forward in every step of an objective that names θ_0.
"""

import torch
from transformers.trainer import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.training_args import TrainingArguments

NPO_BETA = 0.1


def _forward(model, batch, labels: bool):
    """Output of a model; with `labels`, transformers computes the token-mean cross-entropy from float32 logits itself."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    return model(**inputs, **({"labels": batch["labels"]} if labels else {}))


def _logprobs(model, batch):
    """(B, T − 1, V) log-softmax in float32 of what predicts a token."""
    return torch.nn.functional.log_softmax(_forward(model, batch, False).logits[:, :-1].float(), dim=-1)


def _sequence(logprobs, batch):
    """(B,) log-probability of each sequence."""
    return logprobs.gather(2, batch["labels"][:, 1:, None])[..., 0].sum(1)


class PublishedTrainer(Trainer):
    """GA or NPO with no regularizer, GDR or KLR, in float32 or pure bfloat16, as the models are.

    reference: the second model. After `train()`: `losses`, one number per step.
    """

    def __init__(self, model, reference, dataset, collate, method, regularizer, alpha, lr, batch, steps, folder, callbacks=()):
        args = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=batch,
            max_steps=steps,
            learning_rate=lr,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            weight_decay=0.0,
            use_cpu=next(model.parameters()).device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=0,
            data_seed=0,
            log_level="error",
        )
        args._n_gpu = min(1, args.n_gpu)
        super().__init__(model=model, args=args, train_dataset=dataset, data_collator=collate, callbacks=list(callbacks))
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.reference, self.method, self.regularizer, self.alpha, self.losses = reference, method, regularizer, alpha, []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Forget term plus α times retain term."""
        forget, retain = inputs["forget"], inputs["retain"]
        if self.method == "ga":
            loss = -_forward(model, forget, True).loss
        else:
            ours = _sequence(_logprobs(model, forget), forget)
            with torch.no_grad():
                theirs = _sequence(_logprobs(self.reference, forget), forget)
            loss = torch.nn.functional.softplus(NPO_BETA * (ours - theirs)).mean() * (2 / NPO_BETA)
        if self.regularizer == "gdr":
            loss = loss + self.alpha * _forward(model, retain, True).loss
        elif self.regularizer == "klr":
            ours = _logprobs(model, retain)
            with torch.no_grad():
                theirs = _logprobs(self.reference, retain)
            divergence = torch.nn.functional.kl_div(ours, theirs, reduction="none", log_target=True)
            loss = loss + self.alpha * divergence.sum(-1).mean()
        self.losses.append(loss.detach())
        return loss
