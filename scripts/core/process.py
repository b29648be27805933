"""The start and the end of a program: what it answers to bad input, and how little time it spends on either.

With a small model, much of a sweep's time goes into starting and ending programs. Python's garbage collector, which looks again and
again through all that has been imported, takes a fifth of the time in which torch and Trainer are imported. Libraries that
transformers imports in case they are used take as much again, and shutting the interpreter down takes as long as importing torch.
docs/speed.md has the measurements.
"""

import atexit
import errno
import functools
import gc
import os
import signal
import sys
from pathlib import Path

UNUSED = ("datasets", "peft", "scipy")  # Trainer and models import these where they are installed; ours get no object of theirs
ASYNCHRONOUS = ("anyio", "trio")  # the hub's client imports these, for calls that nothing here makes
USUAL = gc.get_threshold()
FULL = (errno.ENOSPC, errno.EDQUOT)  # no room on the disk, or none left of a quota


def guarded(main):
    """Decorator of a program's main(argv): it ends with one line on stderr for bad input (code 2), and for a full disk or GPU (1).

    Bad input is a ValueError, or a file that is missing or may not be read or written. Of a training's ranks only the first speaks.
    """

    @functools.wraps(main)
    def answer(argv=None) -> int:
        try:
            return main(argv)
        except ValueError as error:
            said, code = str(error), 2
        except OSError as error:
            said, code = str(error), 2
            if error.errno in FULL:
                said, code = f"{error}; nothing half-written was kept: make space and start again", 1
            elif error.errno is not None and error.filename is None:  # the system's, and not about a file
                raise
        except RuntimeError as error:
            if not (line := gpu_full(error)):
                raise
            print(f"error: {line}", file=sys.stderr)  # by any rank
            return 1
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {said}", file=sys.stderr)
        return code

    return answer


def gpu_full(error: Exception) -> str | None:
    """One line for an error that says that a GPU's memory was too little; None for another error."""
    if "torch" not in sys.modules or not isinstance(error, sys.modules["torch"].OutOfMemoryError):
        return None
    return str(error).strip().split("\n", 1)[0] + "; allowed: what docs/running.md lists under CUDA out of memory"


def run(main) -> None:
    """Run main() as this process's whole work, and end with the exit code it returns. What it raises ends the process as usual."""
    gc.set_threshold(100_000, *USUAL[1:])
    code = main()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to write; memory goes back as a whole


def tell(main) -> None:
    """Run main() of a program that prints its result; where the reader stops early (`| head`), it ends without a message."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    raise SystemExit(main())


def spare_imports() -> None:
    """Keep transformers from importing libraries that it does not need here. Call it before models or Trainer are imported.

    Other code can still import them: transformers asks only once whether a library is there, and remembers the answer.
    """
    hidden = {name: None for name in UNUSED + ASYNCHRONOUS if name not in sys.modules}
    sys.modules.update(hidden)  # None stands for a module that can't be imported
    try:
        from transformers.utils import import_utils

        for name in UNUSED:
            getattr(import_utils, f"is_{name}_available")()
    finally:
        for name in hidden:
            del sys.modules[name]
    _list_models_once(import_utils)


def _list_models_once(import_utils) -> None:
    """Have transformers read the 2,500 files that list its models once instead of twice."""
    import transformers

    read, folder, start = import_utils.define_import_structure, Path(transformers.__file__).parent / "models", "models."

    def listed(module_path, prefix=None):
        if prefix is not None or Path(module_path) != folder / "__init__.py":
            return read(module_path, prefix)
        known = read(folder, prefix="models")  # it remembers this answer
        own = {
            need: {name.removeprefix(start): what for name, what in names.items() if name.startswith(start)}
            for need, names in known.items()
        }
        return {need: names for need, names in own.items() if names}

    import_utils.define_import_structure = listed
    try:
        import transformers.models  # noqa: F401
    finally:
        import_utils.define_import_structure = read


def imported() -> None:
    """Call this when imports are done: from now on garbage is collected as usual, but not looked for in what is there already."""
    gc.freeze()
    gc.set_threshold(*USUAL)
