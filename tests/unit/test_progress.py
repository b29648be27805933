"""How far a program is: lines in a log, a bar on a terminal."""

import io
import sys
from types import SimpleNamespace

from scripts.core import progress


class Terminal(io.StringIO):
    """A stderr that people look at."""

    def isatty(self):
        return True


def test_a_log_gets_a_line_at_the_start_at_times_and_at_the_end(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "SECONDS", 0)
    bar = progress.bar(12, "step", initial=10)
    bar.set_postfix(loss=0.25, refresh=False)
    bar.update(1)
    monkeypatch.setattr(bar, "mininterval", 1000)
    bar.update(1)
    bar.close()
    bar.close()
    lines = sys.stderr.getvalue().splitlines()
    assert [line.split(" steps,")[0] for line in lines] == ["10 of 12", "11 of 12", "12 of 12"]
    assert lines[1].endswith("left, loss=0.25") and "\r" not in sys.stderr.getvalue()


def test_a_line_says_what_is_done(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.bar(5, "text", "generation") as bar:
        bar.update(5)
    assert sys.stderr.getvalue().splitlines()[-1].startswith("generation: 5 of 5 texts, ")


def test_a_terminal_gets_a_bar_and_quiet_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress.bar(3, "step").close()
    assert "\r" in sys.stderr.getvalue() and "0%" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bar = progress.bar(3, "step", quiet=True)
    bar.update(3)
    bar.close()
    assert sys.stderr.getvalue() == ""


def test_a_training_tells_its_last_loss(monkeypatch):
    from scripts.core.training.callbacks import Progress

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "SECONDS", 0)
    history = []
    watching, state = Progress(lambda: history), SimpleNamespace(max_steps=3, global_step=1)
    watching.on_train_begin(None, state, None)
    watching.on_step_end(None, state, None)
    history.append({"step": 2, "forget": -1.0, "total": 0.5})
    watching.on_step_end(None, state, None)
    watching.on_train_end(None, state, None)
    lines = sys.stderr.getvalue().splitlines()
    assert [line.split(" steps,")[0] for line in lines] == ["1 of 3", "2 of 3", "3 of 3"]
    assert "loss" not in lines[1] and lines[2].endswith(", loss=0.5")
