"""What the documentation names is there: links, commands, programs, files; and every plugin is described."""

import re
from pathlib import Path

import pytest

from scripts.core import registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = set(re.findall(r"^`(scripts/\S+)`:$", (ROOT / "docs/extending.md").read_text(), re.M))  # files that a reader makes
DESCRIBED = {"methods": "methods.md", "regularizers": "methods.md", "quantizers": "quantizers.md", "metrics": "metrics.md"}
DESCRIBED |= {"corpora": "corpora.md", "figures": "running.md"}


def spans(text: str) -> list[str]:
    """What stands as code in a page: between backticks, and the lines of code blocks."""
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)) + "".join(blocks).splitlines()


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as they are made on GitHub."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_there(page):
    text, missing = page.read_text(), []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        other = page.parent / path if path else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            missing.append(link)
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for code in spans(text):
        missing += [f"make {name}" for name in re.findall(r"^make ([a-z-]+)", code) if name not in made]
        for module in re.findall(r"python -m ((?:scripts|benchmarks)[.\w]*)", code):
            place = ROOT / module.replace(".", "/")
            if not place.is_dir() and not place.with_suffix(".py").exists() and not module.endswith("."):
                missing.append(module)
        for path in re.findall(r"^(?:scripts|workflow|profiles|tests|docs|envs|benchmarks)/[\w./-]+$", code):
            if path not in EXAMPLES and not (ROOT / path).exists():
                missing.append(path)
    assert missing == []


def test_the_page_on_architecture_lists_the_files_of_core():
    table = (ROOT / "docs/architecture.md").read_text().split("### scripts/core")[1].split("\n\n")[1]
    folder, listed = "", {}
    for line in table.splitlines()[2:]:
        first, _, names = (part.strip() for part in line.strip("|").split("|"))
        folder = first.strip("`/") or folder
        listed.setdefault(folder.replace("(itself)", "."), set()).update(re.findall(r"`(\w+)`", names))
    core = ROOT / "scripts/core"
    folders = [path for path in (core, *core.iterdir()) if (path / "__init__.py").exists()]
    assert listed == {str(path.relative_to(core)): {file.stem for file in path.glob("[a-z]*.py")} for path in folders}


@pytest.mark.parametrize("room", DESCRIBED)
def test_every_plugin_is_described(room):
    page = (ROOT / "docs" / DESCRIBED[room]).read_text()
    assert [name for name in registry.names(room) if f"`{name}`" not in page] == []


def test_every_library_of_the_main_environment_has_a_reason():
    asked = re.findall(r"^([\w-]+)==", (ROOT / "envs/train.in").read_text(), re.M)
    page = (ROOT / "docs/libraries.md").read_text()
    assert asked and [name for name in asked if name.replace("_", "-") not in page] == []


def test_every_target_of_make_is_in_the_readme_and_has_a_help_text():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    readme = (ROOT / "README.md").read_text()
    assert [name for name in targets if name != "help" and f"`make {name}`" not in readme] == []
    assert [name for name in targets if not re.search(rf"^{name}:.*## \S", (ROOT / "Makefile").read_text(), re.M)] == []
