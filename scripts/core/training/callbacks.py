"""What happens between the steps of a training: how far it is, checkpoints along it, saved states."""

import signal
import time

from transformers.trainer_callback import TrainerCallback

from scripts.core import progress


class Progress(TrainerCallback):
    """Steps on stderr, with the last loss that was read from the device. history: function that returns the trainer's."""

    def __init__(self, history):
        self.history = history

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress.bar(state.max_steps, "step", initial=state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if history := self.history():
            self.bar.set_postfix(loss=history[-1]["total"], refresh=False)
        self.bar.update(1)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class Along(TrainerCallback):
    """Calls `write(name, step)` after the steps {step: name}; stands before Saving, so that no saved state is ahead of it."""

    def __init__(self, steps, write):
        self.steps, self.write = steps, write

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            self.write(self.steps[state.global_step], state.global_step)


class Saving(TrainerCallback):
    """Saves by clock, by step and on a signal; a signal also ends the training after the save. Ranks do so together.

    By the clock a tenth of the time goes into saving at most: the state of a 7B model is 40 to 80 GB.
    """

    def __init__(self, minutes, steps, interruption, zero=None):
        self.minutes, self.steps, self.interruption, self.zero = minutes, steps, interruption, zero
        self.took = 0.0  # seconds that the last save took

    def on_train_begin(self, args, state, control, **kwargs):
        self.last = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        self.asked = time.monotonic()
        wait = max(60 * self.minutes, 9 * self.took) if self.minutes else self.minutes
        due = wait is not None and self.asked - self.last >= wait
        if self.zero:
            number, due = self.zero.largest(self.interruption.signal or 0, due)
            self.interruption.signal = signal.Signals(number) if number else None
        if self.interruption.signal:
            control.should_save = control.should_training_stop = True
        elif state.global_step < state.max_steps:
            control.should_save = bool(due) or bool(self.steps and state.global_step % self.steps == 0)

    def on_save(self, args, state, control, **kwargs):
        self.last = time.monotonic()
        self.took = self.last - self.asked
