"""Run the measures and write their table.

usage: python -m benchmarks [--only NAME …] [--size demo] [--device cpu] [--out docs/measurements/bench.md]
"""

import argparse
import gc
import importlib
import platform
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import sizes, table
from benchmarks.harness import Context, say
from scripts.core import provenance, registry, storage

MEASURES = Path(__file__).parent / "measures"
ROOT = Path(__file__).parents[1]


def names() -> list[str]:
    """Measures that there are, by file name."""
    return sorted(path.stem for path in MEASURES.glob("*.py") if not path.stem.startswith("_"))


def load(chosen: list[str], size: str) -> list:
    """Their modules in the table's order, without those that make no sense for the size."""
    modules = [importlib.import_module(f"benchmarks.measures.{name}") for name in chosen]
    modules = [module for module in modules if size in getattr(module, "SIZES", sizes.SIZES)]
    return sorted(modules, key=lambda module: (getattr(module, "ORDER", 50), module.__name__))


def measure(modules: list, context: Context) -> list[dict]:
    """[{"name", "about", "rows", "seconds", and "error" of a measure that raised}]."""
    found = []
    for module in modules:
        name, began, rows = module.__name__.rsplit(".", 1)[1], time.monotonic(), []
        entry = {"name": name, "about": module.__doc__.splitlines()[0], "rows": rows}
        say(f"{name}: {entry['about']}")
        try:
            for row in module.run(context):
                rows.append(row)
                say(f"  {table.line(row)}")
        except Exception as error:  # one failure must not lose the other measures; the exit status tells
            entry["error"] = f"{type(error).__name__}: {error}"
            say(f"  failed: {entry['error']}")
        entry["seconds"] = time.monotonic() - began
        found.append(entry)
    return found


def main(argv=None) -> int:
    """Command line; 0, or 1 when a measure failed, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"measures to run (default: all of {', '.join(names())})")
    parser.add_argument("--size", choices=list(sizes.SIZES), default="demo", help="model that is measured")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both sides (the demo's jobs have one each)")
    parser.add_argument("--pairs", type=int, default=3, help="pairs per timing")
    parser.add_argument("--out", type=Path, help="Markdown file (default: docs/measurements/bench[-SIZE-DEVICE].md)")
    parser.add_argument("--folder", type=Path, help="where corpus and model are made (default: a temporary folder)")
    options = parser.parse_args(argv)
    try:
        chosen = options.only or names()
        for name in chosen:
            if name not in names():
                raise ValueError(f"--only: unknown measure {name!r}; {registry.nearest(name, names())}")
        import torch

        if options.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device: 'cuda' is not there; allowed: cpu on this machine")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import transformers.trainer  # noqa: F401

    torch.set_num_threads(options.threads)
    gc.collect()
    gc.freeze()  # Trainer collects garbage at each start, and walking the imported libraries takes longer than a step
    label = "" if (options.size, options.device) == ("demo", "cpu") else f"-{options.size}-{options.device}"
    out = options.out or ROOT / "docs" / "measurements" / f"bench{label}.md"
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        context = Context(options.size, options.device, options.folder or scratch, options.pairs)
        found = measure(load(chosen, options.size), context)
    facts = {"size": options.size, "device": options.device, "threads": options.threads, "pairs": options.pairs}
    facts |= {"minutes": (time.monotonic() - began) / 60, "hardware": provenance.hardware(), "python": platform.python_version()}
    facts |= {"versions": provenance.versions(), "ended": provenance.now()}
    text = table.page(found, facts)
    storage.write_text(out, text)
    print(text)
    return 1 if any("error" in entry for entry in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
