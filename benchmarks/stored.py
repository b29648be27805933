"""What checkpoints as differences save, and what reading them costs, on the runs of a sweep.

usage: python -m benchmarks.stored RESULTS [--corpus NAME] [--repeat 5] [--large 400]

For each finished unlearning run of RESULTS/<corpus> (its weights are restored first where they are a difference already): share of
the full size, of weights that changed, and the time to restore all tensors in memory over the time to read the full file into
memory. Warm: both lie in the page cache. Cold: the run's own file was dropped from it, the target's was not, as in a sweep that
reads the target again and again. --large adds a synthetic pair of matrices of so many MB in bf16, a sixth of them changed.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path


def drop(path) -> None:
    """Take a file out of the page cache."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def read(folder) -> dict:
    """All tensors of a whole file, in memory of their own."""
    from safetensors.torch import load_file

    return {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}


def restored(folder) -> dict:
    """All tensors of a difference."""
    from scripts.core.weights import delta

    return delta.Delta(folder).tensors()


def ratio(whole: Path, packed: Path, cold: bool, repeat: int) -> tuple[float, float, float]:
    """Median seconds of reading the whole file and of restoring it, and the median of the pairs' ratios (above 1: restoring is
    quicker)."""
    from scripts.core.weights import delta

    times, files = [], (whole / "model.safetensors", packed / delta.FILE)
    for _ in range(repeat):
        pair = []
        for work, folder, file in ((read, whole, files[0]), (restored, packed, files[1])):
            if cold:
                drop(file)
            began = time.perf_counter()
            work(folder)
            pair.append(time.perf_counter() - began)
        times.append(pair)
    one, other = zip(*times, strict=True)
    return statistics.median(one), statistics.median(other), statistics.median(a / b for a, b in times)


def measure(checkpoint: Path, target: Path, scratch: Path, repeat: int) -> dict:
    """Shares of size and of changed weights, seconds of packing, and times and ratios warm and cold, of one checkpoint."""
    from scripts.core.weights import checkpoints, delta

    whole, packed = scratch / "whole", scratch / "packed"
    checkpoints.restore(checkpoint, whole)
    checkpoints.restore(checkpoint, packed)
    began = time.perf_counter()
    sizes = delta.pack(packed, target)
    found = {"full": sizes["full"], "size": sizes["stored"] / sizes["full"], "pack": time.perf_counter() - began}
    base, own = read(target), read(whole)
    changed = sum(int((own[name] != base[name].to(own[name].dtype)).sum()) for name in own)
    found["changed"] = changed / sum(tensor.numel() for tensor in own.values())
    for name, cold in (("warm", False), ("cold", True)):
        found[name] = ratio(whole, packed, cold, repeat)
    return found


def synthetic(megabytes: int, place: Path) -> tuple[Path, Path]:
    """(checkpoint, target) of matrices in bf16; updates of one size move those weights that are small enough to feel them."""
    import torch
    from safetensors.torch import save_file

    side, draw = 4096, torch.Generator().manual_seed(0)
    count = max(1, megabytes * 500_000 // side**2)
    base = {f"m{i}": (0.02 * torch.randn(side, side, generator=draw)).bfloat16() for i in range(count)}
    moved = {n: (w.float() + 8e-6 * torch.randn(side, side, generator=draw)).bfloat16() for n, w in base.items()}
    folders = place / "large" / "checkpoint", place / "target" / "checkpoint"
    for folder, tensors in zip(folders, (moved, base), strict=True):
        folder.mkdir(parents=True)
        save_file(tensors, folder / "model.safetensors")
    return folders


def line(name: str, found: dict) -> str:
    """A row of the table."""
    cells = [name, f"{found['full'] / 1e6:.1f}", f"{100 * found['changed']:.1f} %", f"{100 * found['size']:.1f} %"]
    cells += [f"{found['full'] / found['pack'] / 1e6:.0f}"]
    for key in ("warm", "cold"):
        one, other, times = found[key]
        cells += [f"{1e3 * one:.1f} / {1e3 * other:.1f} ({times:.2f}×)"]
    return f"| {' | '.join(cells)} |"


def main(argv=None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stored", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="results folder of a sweep")
    parser.add_argument("--corpus", default="people")
    parser.add_argument("--repeat", type=int, default=5, help="pairs per timing")
    parser.add_argument("--large", type=int, default=0, metavar="MB", help="also a synthetic checkpoint of this size")
    options = parser.parse_args(argv)
    from scripts.core import storage

    print("| run | MB | weights changed | stored | packed at MB/s | warm: ms to read / restore | cold: ms to read / restore |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    place = options.results / options.corpus
    for outcome in sorted(place.glob("*/*/seed*/outcome.json")):
        if storage.read_json(outcome)["status"] != "done" or (outcome.parent / "checkpoint" / "pair.json").exists():
            continue
        with tempfile.TemporaryDirectory(dir=".") as scratch:
            found = measure(outcome.parent / "checkpoint", place / "target" / "checkpoint", Path(scratch), options.repeat)
        print(line(str(outcome.parent.relative_to(place)), found), flush=True)
    if options.large:
        with tempfile.TemporaryDirectory(dir=".") as scratch:
            found = measure(*synthetic(options.large, Path(scratch)), Path(scratch), options.repeat)
        print(line("synthetic", found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
