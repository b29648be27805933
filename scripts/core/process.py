"""The start and the end of a program that a job runs: around a small model's work, they are what a sweep costs.

Python's collector of cycles, which looks again and again through all that has been imported, takes a fifth of the time that torch
and Trainer take to import. Libraries that transformers imports in case they are used take as much again, and taking the
interpreter down takes as long as importing torch. What was measured stands in docs/speed.md.
"""

import atexit
import gc
import os
import sys

UNUSED = ("datasets", "peft", "scipy")  # Trainer and models import these if they are there; ours are handed nothing of theirs
USUAL = gc.get_threshold()


def run(main) -> None:
    """Run main() as this process's whole work, and end with the exit code it returns. What it raises ends the process as usual."""
    gc.set_threshold(100_000, *USUAL[1:])
    code = main()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to write; memory goes back as a whole


def spare_imports() -> None:
    """Have transformers do without the libraries UNUSED; called before it imports a model or Trainer. Others still have them.

    transformers asks once whether a library is there, and remembers the answer.
    """
    hidden = {name: None for name in UNUSED if name not in sys.modules}
    sys.modules.update(hidden)  # None stands for a module that is not to be had
    try:
        from transformers.utils import import_utils

        for name in UNUSED:
            getattr(import_utils, f"is_{name}_available")()
    finally:
        for name in hidden:
            del sys.modules[name]


def imported() -> None:
    """Imports are behind: from now on cycles are looked for as usual, but not in what is there already."""
    gc.freeze()
    gc.set_threshold(*USUAL)
