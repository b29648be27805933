"""What a training leaves to go on from: which state is taken, how often one is written, signals. Whole runs: test_training.py."""

import errno
import os
import signal
from types import SimpleNamespace

import pytest

from scripts.core.training import callbacks
from scripts.core.training.resume import Interruption, ResumeStore


def test_damaged_state_gives_way_to_an_older_whole_one(tmp_path):
    """What a crash of the machine cut off is no reason to stop for good."""
    store = ResumeStore(tmp_path, "d")
    for step, text in ((1, '{"digest": "d", "step": 1}'), (2, '{"digest": "d'), (3, "[]")):
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}/resume.json").write_text(text)
    assert store.latest() == (tmp_path / "step-1", {"digest": "d", "step": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_the_newest_state_is_that_of_most_steps(tmp_path):
    """Of two that a crash left between writing one and deleting the other; 10 comes after 9."""
    for step in (9, 10):
        (tmp_path / f"step-{step}").mkdir()
        (tmp_path / f"step-{step}/resume.json").write_text('{"digest": "d"}')
    assert ResumeStore(tmp_path, "d").latest()[0] == tmp_path / "step-10"


def test_a_full_quota_is_told_though_the_disk_has_room(tmp_path, monkeypatch):
    """torch.save only says that a file could not be written."""

    def write(folder):
        raise RuntimeError("PytorchStreamWriter failed writing file")

    def full(descriptor):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    store = ResumeStore(tmp_path, "d")
    with pytest.raises(RuntimeError, match="StreamWriter"):
        store.save(1, write, {})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="quota exceeded.*step-1") as told:
        store.save(1, write, {})
    assert told.value.errno == errno.EDQUOT and not list(tmp_path.iterdir())


def test_a_state_that_takes_long_to_write_is_written_less_often(monkeypatch):
    """A step a minute, a state every ten, and two minutes for each: a tenth of the time at most goes into them."""
    now, control, state = [0.0], SimpleNamespace(), SimpleNamespace(max_steps=1000)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    saving, saved = callbacks.Saving(10, None, SimpleNamespace(signal=None)), []
    saving.on_train_begin(None, None, None)
    for state.global_step in range(1, 60):
        now[0] += 60
        saving.on_step_end(None, state, control)
        if control.should_save:
            saved.append(state.global_step)
            now[0] += 120
            saving.on_save(None, state, control)
    assert saved == [10, 28, 46]


def test_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
    assert interruption.signal == signal.SIGTERM, "the first one that came"
    assert signal.getsignal(signal.SIGTERM) == before
