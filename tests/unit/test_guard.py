"""A results folder has one Snakemake at a time, and what a killed one left needs no hand where that can be told."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from scripts.core import guard
from scripts.core.storage import write_json

ROOT = Path(__file__).parents[2]
MINUTE_AGO = datetime.fromtimestamp(psutil.Process().create_time() - 60, UTC).isoformat(timespec="seconds")


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """A function that claims a results folder from a working directory; returns what its file then holds."""
    monkeypatch.setattr(guard.atexit, "register", lambda *call: None)
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")

    def claim(**left) -> dict:
        path = tmp_path / "results" / guard.NAME
        if left:
            write_json(path, guard.this_process() | left)
        guard.claim(tmp_path / "results")
        return json.loads(path.read_text())

    return claim


def test_a_free_folder_is_taken_and_given_back(claims, tmp_path):
    own = claims()
    assert own["pid"] == os.getpid() and own["folder"] == str(tmp_path / "clone")
    guard.release(tmp_path / "results" / guard.NAME, own)
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize("left", [{"folder": "/clone2"}, {"folder": "/clone2", "host": "login2", "pid": 1}])
def test_one_that_is_in_use_from_another_folder_is_told_in_one_line(claims, left):
    """Of another host nobody here can tell whether it still runs."""
    with pytest.raises(guard.InUse, match=r"^[^\n]* writes there \(process [^\n]*/clone2 at [^\n]* rm \S+running.json$"):
        claims(**left)


@pytest.mark.parametrize(
    "left",
    [
        {"folder": "/clone2", "pid": 2**22 + 1},  # beyond all numbers of processes
        {"folder": "/clone2", "born": "2020-01-01T00:00:00+00:00"},  # its number is another process's now
        {"folder": "/clone2", "born": MINUTE_AGO},
        {"host": "login2", "pid": 1},  # the same folder
        {"host": "login2"},  # there this process's number and time say nothing
        {"pid": 2**22 + 1},
    ],
)
def test_what_was_killed_is_in_nobodys_way(claims, left):
    assert claims(**left) == guard.this_process()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 1'])
def test_a_file_that_says_nothing_is_told_with_the_command_that_removes_it(claims, tmp_path, text):
    """Another one may have made it this moment and not have written to it yet."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / guard.NAME).write_text(text)
    with pytest.raises(guard.InUse, match=r"^[^\n]* writes there \(process None [^\n]* rm \S+running.json$"):
        claims()


@pytest.mark.parametrize("left", [{"pid": "1"}, {"born": None}, {"born": "noon"}])
def test_one_of_this_folder_that_names_no_process_is_replaced(claims, left):
    assert claims(**left) == guard.this_process()


def test_two_in_one_folder_are_left_to_snakemakes_lock(claims, tmp_path):
    """The second one, of other files, neither takes the file nor removes it at its end."""
    born = datetime.fromtimestamp(psutil.Process(os.getppid()).create_time(), UTC).isoformat(timespec="seconds")
    left = {"pid": os.getppid(), "born": born}
    assert claims(**left) == guard.this_process() | left
    guard.release(tmp_path / "results" / guard.NAME, guard.this_process())
    assert (tmp_path / "results" / guard.NAME).exists()


def test_the_file_goes_with_the_process(tmp_path):
    code = "import os; from scripts.core import guard; guard.claim('results'); print(*os.listdir('results')); os.chdir('/'); 1 / 0"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == guard.NAME and "ZeroDivisionError" in done.stderr
    assert list((tmp_path / "results").iterdir()) == []


def test_where_no_file_can_be_made_there_is_none(tmp_path):
    (tmp_path / "file").touch()
    for results in (tmp_path / "file" / "results", tmp_path / ("longer than a name can be" * 20)):
        guard.claim(results)  # the jobs will say so
