"""What runs on a login node imports neither torch nor transformers: the dry run, the plan, the status, the tables, every --help."""

import json
import subprocess
import sys

from scripts.core import registry

ROOT = registry.SCRIPTS.parent
HEAVY = ("torch", "transformers")

# Each step in turn in one process; what a step brought in is taken note of and forgotten, so that the next one is judged by itself.
CODE = """
import contextlib, importlib, io, json, sys
from pathlib import Path

root, folder, heavy = Path(sys.argv[1]), Path(sys.argv[2]), set(json.loads(sys.argv[3]))
found, said = {}, {}

def step(name, module, arguments):
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            status = importlib.import_module(module).main(arguments)
        except SystemExit as stop:
            status = stop.code
    brought = sorted(heavy & {loaded.partition(".")[0] for loaded in sys.modules})
    found[name] = [status or 0, brought]
    said[name] = output.getvalue()[-2000:]
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] in brought]:
        del sys.modules[loaded]

config = ["--config", str(root / "tests/workflow/micro.yaml")]
tables = ["--tables", str(folder)]
step("plan", "scripts.plan", config)
step("status", "scripts.status", config)
fixed = ["--quiet", "all", "--cores", "1", "--directory", str(folder), "--snakefile", str(root / "Snakefile")]
step("snakemake", "snakemake.cli", ["scores", "--dry-run", *fixed, "--configfile", str(root / "tests/workflow/micro.yaml")])
(folder / "cells.json").write_text("[]")
step("aggregate", "scripts.aggregate", ["--cells", str(folder / "cells.json"), "--results", str(folder), "--out", str(folder)])
step("summary", "scripts.summary", tables)
step("draw", "scripts.draw", [*tables, "--figure", "recovery_heatmap", "--out", str(folder / "recovery")])
for path in sorted((root / "scripts").glob("[a-z]*.py")):
    step(f"{path.stem} --help", f"scripts.{path.stem}", ["--help"])
print(json.dumps([found, said]))
"""


def test_neither_torch_nor_transformers(tmp_path):
    command = [sys.executable, "-c", CODE, str(ROOT), str(tmp_path), json.dumps(HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found, said = json.loads(done.stdout)
    assert {name: said[name] for name, (status, _) in found.items() if status} == {}
    assert {name: brought for name, (_, brought) in found.items() if brought} == {}
    assert {"plan", "snakemake", "draw", "train --help", "evaluate --help"} <= found.keys()


def test_planning_and_analysis_import_no_torch():
    files = [path for room in ("planning", "analysis") for path in sorted((ROOT / "scripts/core" / room).glob("[a-z]*.py"))]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    code = (
        "import importlib, sys; [importlib.import_module(name) for name in sys.argv[2:]];"
        " print(*{*sys.modules} & {*sys.argv[1].split()})"
    )
    done = subprocess.run([sys.executable, "-c", code, " ".join(HEAVY), *modules], capture_output=True, text=True, cwd=ROOT)
    assert len(modules) > 20 and (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
