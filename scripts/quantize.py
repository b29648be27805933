"""Quantize a checkpoint once, into a folder that evaluation reads; for the schemes that are expensive to make.

usage: python -m scripts.quantize --run RUN --corpus CORPUS --scheme SCHEME.json --out RUN/quantized/NAME

Runs in the scheme's own environment (see python -m scripts.environments). The folder gets the library's own files and
quantization.json: bits per weight, bytes, seconds, peak memory, calibration set, versions. A run that diverged gives a
folder with {"status": "diverged"} only.
"""

import argparse
import resource
import textwrap
import time
from importlib import metadata
from pathlib import Path

from scripts.core import devices, process, registry, storage
from scripts.core.provenance import Provenance
from scripts.core.weights import delta
from scripts.quantizers import _artifact


def catalogue() -> str:
    """Every scheme's first line, environment, hardware, source and parameters, from the plugins' literals."""
    lines = ["schemes (kind in config.yaml):"]
    for name in registry.names("quantizers"):
        facts = registry.constants("quantizers", name)
        where = "made by this program" if facts["ARTIFACT"] else "in memory, inside the evaluation job"
        lines += ["", f"  {name}: {facts['__doc__'].splitlines()[0]}"]
        lines += [f"    environment {facts['ENVIRONMENT']}, {where}; needs {' or '.join(facts['HARDWARE'])}"]
        lines += [f"    source: {facts['SOURCE']}"]
        for key, schema in facts["PARAMETERS"].items():
            allowed = [f"one of {', '.join(map(registry.spelled, schema['enum']))}"] if "enum" in schema else []
            signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
            allowed += [f"{sign} {schema[bound]}" for bound, sign in signs if bound in schema]
            text = f"{key} = {registry.spelled(schema['default'])}: {schema['description']}"
            text += f" ({', '.join(allowed)})" if allowed else ""
            lines += textwrap.wrap(text, 110, initial_indent="      ", subsequent_indent="        ")
    return "\n".join(lines)


def libraries() -> dict[str, str]:
    """Versions of the quantization libraries in this environment."""
    found = {}
    for name in ("gptqmodel", "auto-gptq", "llmcompressor", "compressed-tensors", "hqq", "xllamacpp"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_gb(device: str) -> float:
    """Largest memory used so far in GB: the GPU's, or this process's."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def tokenizer_of(checkpoint):
    """The tokenizer of a checkpoint folder; transformers 4, which auto-gptq needs, does not know the class that 5 writes."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        return AutoTokenizer.from_pretrained(str(checkpoint))
    except ValueError:
        return PreTrainedTokenizerFast.from_pretrained(str(checkpoint))


def windows_of(scheme: dict, corpus: Path, checkpoint: Path) -> tuple[list[list[int]], dict]:
    """A scheme's calibration windows, and what to record of them; see scripts.core.planning.calibration.sample."""
    from scripts.core.planning.calibration import sample

    return sample(scheme, corpus, tokenizer_of(checkpoint))


def quantize(run: Path, corpus: Path, scheme: dict, out: Path, device: str | None = None, checkpoint: Path | None = None) -> dict:
    """Make the folder `out` whole; returns the content of its quantization.json. checkpoint: default <run>/checkpoint."""
    checkpoint = checkpoint or run / "checkpoint"
    kind = registry.require("quantizers", scheme["kind"], "scheme.kind")
    facts = registry.constants("quantizers", kind)
    if not facts["ARTIFACT"]:
        raise ValueError(f"scheme.kind: {kind!r} is made in memory by scripts.evaluate; allowed: kinds with files of their own")
    provenance = Provenance(scheme)
    outcome = storage.read_json(run / "outcome.json")
    if outcome["status"] != "done":
        content = {"status": outcome["status"], "scheme": scheme, "provenance": provenance.record()}
        with storage.whole_folder(out) as folder:
            storage.write_json(folder / "quantization.json", content)
        return content
    if facts["ENVIRONMENT"] != "train" and delta.is_packed(checkpoint):
        raise ValueError(
            f"checkpoint: {str(checkpoint)!r} keeps weights as a difference, which {kind} can't read; "
            "allowed: --checkpoint FOLDER, made by python -m scripts.export RUN FOLDER"
        )
    plugin = registry.load("quantizers", kind)
    if hasattr(plugin, "check"):
        plugin.check(scheme, storage.read_json(checkpoint / "config.json"))
    device = device or devices.pick(kind, facts["HARDWARE"])
    windows, calibration = windows_of(scheme, corpus, checkpoint) if "calibration" in facts["PARAMETERS"] else ([], None)
    if hasattr(plugin, "prepare"):
        plugin.prepare()
    process.imported()
    with storage.whole_folder(out) as folder:
        started = time.monotonic()
        with provenance.working():
            plugin.quantize(checkpoint, scheme, windows, folder, device)
        seconds = round(time.monotonic() - started, 2)
        content = {
            "status": "ok",
            "scheme": scheme,
            **_artifact.measure(checkpoint, folder),
            "seconds": seconds,
            "peak_gb": round(peak_gb(device), 3),
            "device": device,
            "calibration": calibration,
            "libraries": libraries(),
            "weights": outcome.get("weights"),
            "provenance": provenance.record(),
        }
        storage.write_json(folder / "quantization.json", content)
    return content


@process.guarded
def main(argv=None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.quantize",
        description=__doc__,
        epilog=catalogue(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder with checkpoint/ and outcome.json")
    parser.add_argument("--corpus", type=Path, required=True, help="corpus folder (calibration text)")
    parser.add_argument("--scheme", type=Path, required=True, help="scheme file: {'scheme': {'kind': …, parameters}}")
    parser.add_argument("--out", type=Path, required=True, help="folder that is written")
    parser.add_argument("--checkpoint", type=Path, help="folder with its whole weights (default: RUN/checkpoint)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one and the scheme can use it")
    options = parser.parse_args(argv)
    content = storage.read_json(options.scheme)
    scheme = content.get("scheme", content) if isinstance(content, dict) else None
    if not isinstance(scheme, dict) or "kind" not in scheme:
        raise ValueError(f"scheme: {options.scheme} has no kind; allowed: {', '.join(registry.names('quantizers'))}")
    kind = registry.require("quantizers", scheme["kind"], "scheme.kind")
    if options.device != "cpu" and "cuda" in registry.constants("quantizers", kind)["HARDWARE"]:
        devices.claim(1)
    scheme = registry.defaults("quantizers", kind) | scheme
    done = quantize(options.run, options.corpus, scheme, options.out, options.device, options.checkpoint)
    if done["status"] == "ok":
        print(f"{options.out}: {done['bits_per_weight']:.3f} bits per weight, {done['bytes']} bytes, {done['seconds']} s")
    return 0


if __name__ == "__main__":
    process.run(main)
