"""Time and memory of the schemes that are dear to make, on a Llama of a real size with random weights.

usage: python -m benchmarks.quantize_1b [--schemes gptq awq] [--device cuda]

The default shape is that of Llama-3.2-1B, in bf16; weights and text are random, since neither changes how long the work
takes. Each scheme is made by `scripts.quantize` in its own environment, as in a sweep. One line of Markdown per scheme:
seconds from the stored checkpoint to the quantized model, without the library's import; peak memory of the GPU, or of the
process on a CPU; bits per weight; bytes of the whole model. A scheme that fails says so, and the exit status is 1.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import seven_b
from scripts.core import isolation, registry
from scripts.core.planning import memory
from scripts.core.planning.calibration import GENERIC
from scripts.core.storage import write_json

HEAD = ("scheme", "device", "seconds", "peak GB", "bits per weight", "MB")
WORDS = 12  # of a sentence


def text(tokens: int, path: Path) -> Path:
    """A file of sentences of random words, long enough for `tokens` tokens."""
    draw, words = random.Random(0), sorted(set(GENERIC.read_text(encoding="utf-8").split()))
    lines = (" ".join(draw.choices(words, k=WORDS)) for _ in range(2 * tokens // WORDS + 1))
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def build(options, folder: Path) -> Path:
    """A run folder with a random model in bf16."""
    from scripts.core.weights.models import build_tokenizer, save_checkpoint

    tokenizer = build_tokenizer(GENERIC.read_text(encoding="utf-8").split("\n\n"), 1024, options.length)
    sizes = (options.hidden, options.layers, options.heads, options.kv_heads, options.intermediate)
    shape = memory.Shape(*sizes, max(options.vocab, len(tokenizer)), tied=True)
    model = seven_b.build(shape, options.length, "cpu")
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e6:.1f} million parameters, {options.samples} windows of {options.length} tokens\n", flush=True)
    save_checkpoint(model, tokenizer, folder / "run" / "checkpoint")
    write_json(folder / "run" / "outcome.json", {"status": "done", "weights": "random"})
    return folder / "run"


def measure(kind: str, run: Path, words: Path, options) -> dict:
    """quantization.json of a scheme; RuntimeError with the last line that its program wrote."""
    facts = registry.constants("quantizers", kind)
    scheme = registry.defaults("quantizers", kind) | {"kind": kind, "name": kind}
    if "group" in scheme:
        scheme["group"] = options.group
    if "calibration" in scheme:
        scheme |= {"samples": options.samples, "length": options.length, "text": str(words)}
    file, out = run.parent / f"{kind}.json", run.parent / kind
    write_json(file, {"scheme": scheme})
    command = [isolation.interpreter(facts["ENVIRONMENT"]), "-m", "scripts.quantize", "--run", run, "--corpus", run.parent]
    command += ["--scheme", file, "--out", out] + (["--device", options.device] if options.device else [])
    environment = os.environ | {"PYTHONPATH": str(isolation.ROOT)}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=isolation.ROOT, env=environment)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads((out / "quantization.json").read_text(encoding="utf-8"))


def main(argv=None) -> int:
    """Command line; returns the exit status."""
    dear = [name for name in registry.names("quantizers") if registry.constants("quantizers", name)["ARTIFACT"]]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantize_1b", description=__doc__.splitlines()[0])
    parser.add_argument("--schemes", nargs="+", choices=dear, default=["gptq", "awq"], help="kinds (default: gptq awq)")
    for name, value in (
        ("hidden", 2048),
        ("intermediate", 8192),
        ("layers", 16),
        ("heads", 32),
        ("kv-heads", 8),
        ("vocab", 128256),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"of the model (default: {value})")
    for name, value in (("samples", 128), ("length", 2048), ("group", 128)):
        parser.add_argument(
            f"--{name}", type=int, default=value, help=f"calibration windows, their tokens, columns (default: {value})"
        )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")
    parser.add_argument("--folder", help="where files are written (default: a temporary folder)")
    options = parser.parse_args(argv)
    failed = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run = build(options, Path(folder))
        words = text(options.samples * options.length, Path(folder) / "words.txt")
        print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|", flush=True)
        for kind in options.schemes:
            try:
                found = measure(kind, run, words, options)
            except (RuntimeError, ValueError) as error:
                failed = 1
                print(f"| {kind} | failed: {error} |" + " |" * (len(HEAD) - 2), flush=True)
            else:
                cells = [kind, found["device"], found["seconds"], found["peak_gb"]]
                cells += [f"{found['bits_per_weight']:.3f}", f"{found['bytes'] / 1e6:.2f}"]
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
