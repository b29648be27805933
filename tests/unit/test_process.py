"""The short start and end of programs: nothing of what they do is lost, and what they don't use is not imported."""

import gc
import subprocess
import sys

from scripts.core import process

ENDING = """
import atexit, gc, sys
from scripts.core import process
def main():
    assert gc.get_threshold()[0] > process.USUAL[0]
    process.imported()
    assert gc.get_threshold() == process.USUAL and gc.get_freeze_count() > 1000
    atexit.register(print, "at exit")
    print("out"), print("err", file=sys.stderr)
    return 75
process.run(main)
"""

STARTING = """
import sys
from scripts.core import runs
runs.prepare(1)
from scripts.core import lora, models, trainer
print(sorted({"bitsandbytes", "datasets", "deepspeed", "pandas", "peft", "scipy"} & set(sys.modules)))
import datasets, peft, scipy
"""


def python(source: str):
    """A finished process of its own that ran `source`."""
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)


def test_the_exit_code_all_output_and_what_waits_for_the_end_are_kept():
    done = python(ENDING)
    assert (done.returncode, done.stdout, done.stderr) == (75, "out\nat exit\n", "err\n")


def test_what_main_raises_ends_the_process_as_usual():
    done = python("from scripts.core import process\ndef main(): raise KeyError('told')\nprocess.run(main)")
    assert done.returncode == 1 and done.stderr.endswith("KeyError: 'told'\n")


def test_a_training_imports_no_library_that_it_does_not_use_and_can_still_do_so():
    done = python(STARTING)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stderr[-2000:]


def test_imported_modules_are_out_of_the_collectors_sight():
    gc.unfreeze()
    process.imported()
    try:
        assert gc.get_freeze_count() > 1000 and gc.get_threshold() == process.USUAL
    finally:
        gc.unfreeze()


def test_bitsandbytes_comes_without_torchs_compiler_and_leaves_it_usable():
    source = "import sys, torch; found = torch.compile; from scripts.quantizers import _bnb; _bnb.import_library()\n"
    done = python(
        source + "print('torch._inductor.compile_fx' in sys.modules, torch.compile is found, 'bitsandbytes' in sys.modules)"
    )
    assert done.stdout.split() == ["False", "True", "True"], done.stderr[-2000:]
