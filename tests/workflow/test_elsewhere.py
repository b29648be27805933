"""Commands that are not started in the project's folder: the configuration is found, or one line says what is wrong with it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def dry(folder, *arguments) -> str:
    """What a dry run says that is started in `folder`."""
    command = [str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "--dry-run", "--cores", "1"]
    done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)
    return f"{done.returncode} {done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    "more, target",
    [
        ([], "results/paper/news/corpus/spec.json"),
        (["--profile", str(ROOT / "profiles/demo")], "results/demo/people/corpus/spec.json"),
    ],
    ids=["config.yaml of the project", "a profile's own file"],
)
def test_the_projects_files_are_found_from_anywhere(tmp_path, more, target):
    """Another configuration would have no such run."""
    said = dry(tmp_path, target, *more)
    assert said.startswith("0 ") and re.search(r"^spec +1$", said, re.M), said


def test_the_own_configuration_of_a_folder_counts_first(tmp_path):
    (tmp_path / "config.yaml").touch()
    said = dry(tmp_path)
    assert said.startswith("1 ") and "'config.yaml' holds nothing; allowed: a mapping" in said, said
