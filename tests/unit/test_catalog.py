"""What other programs read about the project parses and holds what they require."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_citation_file_names_authors_and_references():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= found.keys() and found["authors"]
    assert all("authors" in one and "title" in one for one in found["references"])


def test_the_workflow_catalogs_file_names_a_profile_that_exists():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"]["conda"] is True and usage["report"] is True
    profile = usage["mandatory-flags"]["flags"].split()[-1]
    assert (ROOT / profile / "config.yaml").is_file()
