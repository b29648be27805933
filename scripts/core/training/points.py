"""Checkpoints along a training: written while it runs, published beside its last one when it ends.

While the training runs, a checkpoint lies in the hidden folder `<run>/.<name>/`, which Snakemake does not know and so
does not delete when a job is cut off. At the end each becomes `<run>/<name>/`, a run folder like any other (checkpoint/,
run.json, outcome.json), before the run's own outcome.json says that all is done. A checkpoint that was not reached because
the training diverged says so, too.
"""

import shutil
from pathlib import Path

from scripts.core import storage
from scripts.core.training import runs

NOTE = "point.json"


class Points:
    """The checkpoints `names` ("step100", "epoch3") of the run in folder `out`.

    digest: of all that decides the run; what another digest left is discarded. target: as in runs.finish.
    """

    def __init__(self, out, names, digest: str, provenance, target=None):
        self.out, self.names, self.digest = Path(out), tuple(names), digest
        self.provenance, self.target = provenance, target
        for folder in self.out.glob(".*"):
            if (folder / NOTE).exists() and folder.name[1:] not in self.made():
                shutil.rmtree(folder)

    def made(self) -> list[str]:
        """Names of the checkpoints that are whole and of this very run."""
        return [name for name in self.names if self._note(name) == self.digest]

    def _note(self, name: str):
        path = self.out / f".{name}" / NOTE
        return storage.read_json(path)["digest"] if path.exists() else None

    def steps(self, per_epoch: int) -> dict[int, str]:
        """{optimiser step: name}; per_epoch: optimiser steps of one pass over the forget set."""
        number = {name: int(name.removeprefix("step").removeprefix("epoch")) for name in self.names}
        return {n * (per_epoch if name.startswith("epoch") else 1): name for name, n in number.items()}

    def write(self, name: str, step: int, write, **record) -> None:
        """Keep a checkpoint through `write(folder)`; one that is there already is left alone."""
        if name in self.made():
            return
        folder = self.out / f".{name}"
        shutil.rmtree(folder, ignore_errors=True)
        runs.finish(folder, self.provenance, write, step, "done", self.target, **record)
        storage.sync(folder)  # before it is noted as whole
        storage.write_json(folder / NOTE, {"digest": self.digest})

    def publish(self, status: str, step: int) -> None:
        """Move every checkpoint to its place; those that a diverged training did not reach get its outcome."""
        for name in self.names:
            hidden, place = self.out / f".{name}", self.out / name
            if self._note(name) != self.digest:
                if status == "done":
                    raise RuntimeError(f"checkpoint {name} was not written")

                def write(folder):
                    storage.write_json(folder / "diverged.json", {"status": status, "step": step})

                runs.finish(place, self.provenance, write, step, status)
                continue
            place.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(place / "checkpoint", ignore_errors=True)
            for part in ("checkpoint", "run.json", "outcome.json"):
                (hidden / part).replace(place / part)
            shutil.rmtree(hidden)
