"""What the training programs share: arguments, corpus texts, and outputs in the order that makes "done" mean done."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from scripts.core import devices, process, storage
from scripts.core.provenance import Provenance
from scripts.core.training.resume import EXIT_CODES
from scripts.core.weights import delta

# torch looks there when it is loaded. A step's tensors come in many sizes: in segments that grow they leave no holes, of which the
# memory plan knows nothing.
ALLOCATOR = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The arguments of every training program."""
    arguments = argparse.ArgumentParser(prog=f"python -m scripts.{program}", description=description)
    arguments.add_argument("--spec", type=Path, required=True, help="spec.json of the run")
    arguments.add_argument("--corpus", type=Path, required=True, help="corpus folder with data/ and manifest.json")
    arguments.add_argument("--out", type=Path, required=True, help="run folder that is written")
    arguments.add_argument("--threads", type=int, help="CPU threads (default: OMP_NUM_THREADS, else all cores)")
    arguments.add_argument("--save-minutes", type=float, default=10, help="minutes between resumable states")
    arguments.add_argument("--save-steps", type=int, help="optimiser steps between resumable states (default: by time only)")
    arguments.add_argument(
        "--zero", type=int, choices=(2, 3), help="ZeRO stage of a training on several GPUs (set by scripts.launch)"
    )
    arguments.add_argument("--offload", choices=("none", "cpu"), default="none", help="where ZeRO keeps the optimiser's state")
    return arguments


def prepare(threads) -> str:
    """Set threads, the GPU's allocator and determinism; returns the device, "cuda" or "cpu". Call it before torch is imported."""
    if not os.environ.keys() & ALLOCATOR:
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    import torch

    process.spare_imports()
    from scripts.core.training import trainer  # noqa: F401 (what takes long, before the work starts)
    from scripts.core.training.determinism import deterministic

    process.imported()

    if threads:
        torch.set_num_threads(threads)
    deterministic()
    return "cuda" if devices.usable() else "cpu"


def read_spec(path, stages) -> dict:
    """The spec of a run; ValueError unless its stage is one of `stages`."""
    spec = storage.read_json(path)
    stage = spec.get("stage") if isinstance(spec, dict) else None
    if stage not in stages:
        raise ValueError(f"{path}: stage {stage!r} is not allowed here; allowed: {', '.join(stages)}")
    return spec


def read_texts(corpus, split: str) -> list[str]:
    """The strings of <corpus>/data/raw/<split>.json. ValueError if it is missing, empty or holds anything else."""
    path = Path(corpus) / "data" / "raw" / f"{split}.json"
    if not path.exists():
        raise ValueError(f"corpus: {path} is missing; allowed: a corpus with the split {split!r}")
    texts = storage.read_json(path)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts) or not any(texts):
        raise ValueError(f"corpus: {path} is not usable; allowed: a list of strings that are not all empty")
    return texts


def sharding(options, settings: dict, storage: str):
    """The scripts.core.training.zero.Zero of a process that torchrun started among others; None for one that is alone."""
    from scripts.core.training.zero import Ranks, Zero

    ranks = Ranks.of_environment()
    if ranks.size == 1:
        return None
    if options.zero is None:
        raise ValueError("--zero: missing; allowed: 2 or 3 where a training has several processes (scripts.launch sets it)")
    return Zero(options.zero, options.offload, settings, storage, ranks)


def inputs_digest(spec: dict, corpus, *runs, zero=None) -> str:
    """Digest of all that decides a run: its spec, the corpus's manifest, the outcomes of the runs it starts from.

    With ZeRO, what its saved state fits counts too: state of another number of GPUs or stage can't be read.
    """
    manifest = Path(corpus) / "manifest.json"
    outcomes = [storage.read_json(Path(run) / "outcome.json") for run in runs if (Path(run) / "outcome.json").exists()]
    parts = [spec, storage.read_json(manifest) if manifest.exists() else None, outcomes]
    return storage.digest([*parts, zero.layout] if zero else parts)


def finish(out, provenance: Provenance, write, step: int, status="done", target=None, **record) -> dict:
    """Write checkpoint/ through `write(folder)`, then run.json, then outcome.json, last; returns the outcome.

    target: checkpoint folder that the weights are kept as a difference from (scripts/core/weights/delta.py); None keeps them whole.
    """
    from scripts.core.weights.models import weights_digest

    out, weights = Path(out), None
    with storage.whole_folder(out / "checkpoint") as folder:
        write(folder)
        if status == "done":
            weights = weights_digest(folder)
            if target is not None:
                record["checkpoint_bytes"] = delta.pack(folder, target)
    outcome = {"status": status, "weights": weights, "spec": provenance.digest, "step": step}
    storage.write_json(out / "run.json", provenance.record(status=status, step=step, **record))
    storage.write_json(out / "outcome.json", outcome)
    print(json.dumps({"out": out.name, **outcome}), file=sys.stderr)
    return outcome


def hear_signals() -> None:
    """Let SIGTERM and SIGUSR1 be heard: torchrun is started deaf to them (scripts.launch), and its ranks inherit that."""
    for number in EXIT_CODES:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
