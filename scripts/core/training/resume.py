"""Training that survives being killed: where its state lies, and when it is written.

State goes to `<run>/.resume/step-<n>/`, written as a hidden sibling and renamed, so a folder with that name is always
whole. Beside the state lies `resume.json` with the digest of everything that decides the run; state of another digest
is discarded, never continued. SIGTERM (a scheduler's preemption) and SIGUSR1 (its warning before the time limit) ask
for state and an exit that means "start me again". A GPU without room for a run leaves a note there, too: the next attempt computes
layers again in the backward pass, which takes less memory and gives the same bits.
"""

import errno
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

from scripts.core import storage

EXIT_CODES = {
    signal.SIGTERM: 143,  # 128 + SIGTERM, as a shell reports it
    signal.SIGUSR1: 75,  # EX_TEMPFAIL of sysexits.h
}


def check_room(folder: Path, error: Exception) -> None:
    """OSError from `error` where a mebibyte finds no room: the disk is full, or a quota, of which no number of the disk's tells."""
    try:
        storage.write_text(folder / "room", " " * 2**20)
    except OSError as full:
        raise OSError(full.errno, os.strerror(full.errno or errno.ENOSPC), str(folder)) from error


class ResumeStore:
    """The trainer states of one run; `digest` identifies what the run computes."""

    def __init__(self, folder, digest: str):
        self.folder, self.digest = Path(folder), digest

    def latest(self, usable=lambda notes: True):
        """(folder of the newest whole state, its notes) or (None, None); those of another digest or a crash are deleted.

        usable(notes): whether what a state refers to outside its folder is still there; else the state is deleted, too.
        """
        found = (None, None)
        states = sorted(self.folder.glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")), reverse=True)
        for state in states:
            notes = storage.read_object(state / "resume.json")  # damaged where the state may be, too
            if found[0] is None and notes.get("digest") == self.digest and usable(notes):
                found = (state, notes)
            else:
                shutil.rmtree(state, ignore_errors=True)
        for partial in self.folder.glob(".step-*"):
            shutil.rmtree(partial, ignore_errors=True)
        return found

    def partial(self, step: int) -> Path:
        """Where the state of a step lies while it is written."""
        return storage.partial_folder(self.folder / f"step-{step}")

    def save(self, step: int, write, notes: dict) -> None:
        """Write the state of `step` through `write(folder)` and delete older ones. notes: JSON values kept with it."""
        final = self.folder / f"step-{step}"
        with storage.whole_folder(final) as folder:
            try:
                write(folder)
            except RuntimeError as error:  # torch.save does not say so when there is no room
                check_room(folder, error)
                raise
            storage.write_json(folder / "resume.json", {**notes, "digest": self.digest, "step": step})
            storage.sync(folder)
        for old in self.folder.glob("step-*"):
            if old != final:
                shutil.rmtree(old, ignore_errors=True)

    @property
    def cramped(self) -> bool:
        """Whether an earlier attempt at this run found no room on its GPU."""
        return storage.read_object(self.folder / "no-room/resume.json").get("digest") == self.digest

    @contextmanager
    def noting_no_room(self):
        """Context of what an attempt computes: where a GPU's memory is too little, later ones find `cramped`."""
        import torch

        try:
            yield
        except torch.OutOfMemoryError:
            storage.write_json(self.folder / "no-room/resume.json", {"digest": self.digest})
            raise

    def clear(self) -> None:
        """Delete all state: the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Interruption:
    """Context in which SIGTERM and SIGUSR1 only leave a note: `.signal` is the first one that came, else None."""

    def __enter__(self):
        self.signal, self._previous = None, {}
        for number in EXIT_CODES:
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: someone else handles signals
                break
        return self

    def __exit__(self, *error):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.signal = self.signal or signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """What the program exits with, so that a scheduler starts it again."""
        return EXIT_CODES[self.signal]
