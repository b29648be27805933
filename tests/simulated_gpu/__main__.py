"""python -m tests.simulated_gpu LIBRARY CALLS FOUND: run programs on the simulated GPU, one after the other in one process.

CALLS: JSON, a list of [module, [argument, …]]. FOUND: JSON that is written, a list of what became of each, {"code", "said",
"waits"}: the exit code (or what was raised), the text on stderr, and how often each line of code waited for a number.
"""

import contextlib
import importlib
import io
import json
import sys
import traceback
from pathlib import Path

from tests.simulated_gpu.starting import start


def main(argv) -> int:
    tensors = start(argv[0])
    found = []
    for name, arguments in json.loads(Path(argv[1]).read_text(encoding="utf-8")):
        tensors.waits.clear()
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            try:
                code = importlib.import_module(name).main(arguments)
            except Exception:
                code = traceback.format_exc()
        found.append({"code": code, "said": said.getvalue().strip(), "waits": dict(tensors.waits)})
    Path(argv[2]).write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
