"""Timing in pairs, rows of the table, and what a measure gets to work with."""

import gc
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from benchmarks import sizes


@dataclass
class Pairs:
    """Seconds and results of a baseline and of ours, run in turn."""

    baseline: list = field(default_factory=list)
    ours: list = field(default_factory=list)
    results: list = field(default_factory=list)

    @property
    def ratios(self) -> list:
        """baseline / ours of each pair."""
        return [a / b for a, b in zip(self.baseline, self.ours, strict=True)]

    def __add__(self, other: "Pairs") -> "Pairs":
        """One work after the other: the k-th pairs of two measures as one pair."""
        totals = [[x + y for x, y in zip(a, b, strict=True)] for a, b in ((self.baseline, other.baseline), (self.ours, other.ours))]
        return Pairs(*totals, list(zip(self.results, other.results, strict=True)))


@dataclass
class Row:
    """One line of the table. ratio, low, high: above 1 means that ours costs less (or does more); table: its heading."""

    measure: str
    baseline: float | None
    ours: float | None
    unit: str = "s"
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 1
    note: str = ""
    more_is_better: bool = False
    table: str = ""

    def __post_init__(self):
        if self.ratio is None and self.baseline is not None and self.ours:
            self.ratio = self.ours / self.baseline if self.more_is_better else self.baseline / self.ours

    @classmethod
    def timed(cls, measure: str, pairs: Pairs, scale: float = 1.0, **more) -> "Row":
        """The row of timed pairs: medians of seconds (times `scale`), and of the pairs' ratios with their extremes."""
        ratios = pairs.ratios
        times = [scale * statistics.median(seconds) for seconds in (pairs.baseline, pairs.ours)]
        return cls(measure, *times, ratio=statistics.median(ratios), low=min(ratios), high=max(ratios), pairs=len(ratios), **more)

    def turned(self) -> "Row":
        """The same row with ratios that say how many times more ours costs."""
        ratio, low, high = (value and 1 / value for value in (self.ratio, self.high, self.low))
        return replace(self, ratio=ratio, low=low, high=high)


class Context:
    """What a measure gets. size: a name of benchmarks.sizes.SIZES; device: "cpu" or "cuda"; count: pairs per timing."""

    def __init__(self, size: str, device: str, folder, count: int = 5):
        self.size, self.device, self.folder, self.count = size, device, Path(folder), count
        self.shape = sizes.SIZES[size]

    @cached_property
    def corpus(self) -> Path:
        """A corpus's data folder in the MUSE layout."""
        return sizes.corpus(self.shape, self.folder / "corpus")

    @cached_property
    def checkpoint(self) -> Path:
        """A checkpoint folder of the size's model; trained for a moment where that is quick, so that answers end."""
        return sizes.checkpoint(self.shape, self.corpus, self.folder / "model" / "checkpoint", self.device)

    @cached_property
    def tokenizer(self):
        """The checkpoint's tokenizer."""
        from scripts.core.weights.models import load_tokenizer

        return load_tokenizer(self.checkpoint)

    def model(self, dtype: str | None = None):
        """A fresh copy of the model on the device, in evaluation mode; dtype defaults to what the device is quick with."""
        from scripts.core.weights.models import load_model

        return load_model(self.checkpoint, dtype or ("bf16" if self.device == "cuda" else "fp32"), self.device)

    def pairs(self, baseline, ours, count: int | None = None, warm: bool = True, seconds=None) -> Pairs:
        """Time both callables `count` times in turn, the order swapped from pair to pair.

        warm: run each once before. seconds: function of a callable's result that tells its time, where that is not all of it.
        """
        found = Pairs()
        if warm:
            baseline(), ours()
        for k in range(count or self.count):
            took, gave = {}, {}
            for name, work in (("baseline", baseline), ("ours", ours))[:: 1 if k % 2 == 0 else -1]:
                took[name], gave[name] = self.clock(work)
                if seconds:
                    took[name] = seconds(gave[name])
            found.baseline.append(took["baseline"])
            found.ours.append(took["ours"])
            found.results.append((gave["baseline"], gave["ours"]))
        return found

    def clock(self, work):
        """(seconds, result) of one call; waits for the device."""
        gc.collect()
        self.wait()
        began = time.perf_counter()
        result = work()
        self.wait()
        return time.perf_counter() - began, result

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()


def say(text: str) -> None:
    """A line of progress on stderr."""
    print(text, file=sys.stderr, flush=True)
