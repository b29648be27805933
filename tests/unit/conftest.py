"""An evaluated run for the tests of the evaluation program, in all files of them the same one."""

import shutil
from pathlib import Path

import pytest

from tests.unit import evaluated


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with corpus/, run/ and a scheme file per scheme, evaluated; not to be changed."""
    return evaluated.build(tmp_path_factory.mktemp("made"))


@pytest.fixture
def copy(made, tmp_path):
    """A copy of `made`, evaluated, free to be changed."""
    return Path(shutil.copytree(made, tmp_path / "made"))
