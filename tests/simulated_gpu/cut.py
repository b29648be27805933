"""scripts.unlearn with a signal in its second step, as Slurm sends one before a job's time is over."""

import os
import signal
from unittest import mock


def main(argv) -> int:
    """Run the program; 75, its exit code after the signal."""
    from scripts import unlearn
    from scripts.core.training.unlearner import UnlearnTrainer

    step = UnlearnTrainer.training_step

    def cut(self, *arguments):
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(self, *arguments)

    with mock.patch.object(UnlearnTrainer, "training_step", cut):
        return unlearn.main(argv)
