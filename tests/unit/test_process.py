"""The short start and end of programs: nothing of what they do is lost, and what they don't use is not imported."""

import errno
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.core import process

CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
ENDING = """
import atexit, gc, sys
import pytest

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
from scripts.core.training import runs
runs.prepare(1)
from scripts.core.training import lora, trainer
from scripts.core.weights import models
print(sorted({"anyio", "bitsandbytes", "datasets", "deepspeed", "pandas", "peft", "scipy", "trio"} & set(sys.modules)))
import anyio, datasets, peft, scipy
"""

LISTING = """
import sys
from pathlib import Path
read = []
sys.addaudithook(lambda event, args: read.append(str(args[0])) if event == "open" else None)
import pytest

from scripts.core import process
process.spare_imports()
import transformers
from transformers.utils import import_utils
place = Path(transformers.__file__).parent / "models"
own = [path for path in read if path.startswith(str(place)) and path.endswith(".py")]
module = sys.modules["transformers.models"]
usual = import_utils.define_import_structure(module.__file__)
again = import_utils._LazyModule(module.__name__, module.__file__, usual, module_spec=module.__spec__)
equal = [getattr(module, key) == getattr(again, key) for key in ("_import_structure", "_modules", "_class_to_module")]
print(len(own) - len(set(own)), len(own) > 1000, equal)
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


def test_a_reader_that_has_seen_enough_ends_a_program_without_a_word():
    source = "from scripts.core import process\ndef main():\n  while True: print('a' * 4096)\nprocess.tell(main)"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        program.stdout.readline()
        program.stdout.close()
        assert program.stderr.read() == "" and program.wait() == -signal.SIGPIPE


@pytest.mark.parametrize("program", ["alike", "compare", "plan", "predict", "rescore", "schemes", "status", "summary"])
def test_programs_that_print_end_so(program):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", f"scripts.{program}", "--help"], stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert done.stderr == "" and done.returncode == -signal.SIGPIPE


def test_a_training_imports_no_library_that_it_does_not_use_and_can_still_do_so():
    done = python(STARTING)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stderr[-2000:]


def test_transformers_lists_its_models_once_and_as_it_would():
    done = python(LISTING)
    assert done.stdout.strip() == "0 True [True, True, True]", done.stderr[-2000:]


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


@pytest.mark.skipif("avx512_bf16" not in CPU, reason="bitsandbytes would fetch a kernel on CPUs with bf16 instructions")
@pytest.mark.parametrize("there", [True, False])
def test_bitsandbytes_fetches_no_kernel_from_the_hub_and_does_not_warn_of_it(tmp_path, there):
    """With the package that would fetch it and without."""
    if there:
        (tmp_path / "kernels.py").write_text("def get_kernel(*a, **k): print('fetched')\n")
    source = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
    done = python(source + "from scripts.quantizers import _bnb; _bnb.import_library(); print('kernels' in sys.modules)")
    assert done.stdout.split() == ["False"], done.stderr[-2000:]
    assert "kernels" not in done.stderr


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ValueError("lr: 2 is not allowed"), 2, "error: lr: 2 is not allowed\n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.json"), 2, "a.json"),
        (OSError("no safetensors there"), 2, "error: no safetensors there\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "make space and start again"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "make space and start again"),
    ],
)
def test_bad_input_and_a_full_disk_are_one_line_and_an_exit_code(capsys, error, code, said):
    @process.guarded
    def main(argv=None):
        raise error

    assert main([]) == code
    told = capsys.readouterr().err
    assert said in told and told.startswith("error: ") and told.count("\n") == 1


def test_an_error_of_the_system_that_is_about_no_file_is_shown_whole():
    @process.guarded
    def main(argv=None):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        main([])
