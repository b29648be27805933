"""Whether two scores can be compared, and what differs between them: two metric files, from two people or two settings.

Scores answer the same question when metric, its version and settings, and the corpus are equal. Then what differs in the run, the
scheme and the model's weights is what the scores compare; packages, source and hardware that differ can move the last bits.
Each metric file says all of this by itself; the run's spec.json is read, too, where it lies in its place beside.
Exit code 0 when comparable, 1 when not, 2 when a file can't be read as a metric file.
"""

import argparse
from pathlib import Path

from scripts.core import process
from scripts.core.storage import read_json

QUESTION = ("kind", "version", "settings", "corpus")
COMPARED = ("scheme", "weights", "run", "seed", "spec")
CIRCUMSTANCES = ("commit", "versions", "hardware", "times")
ABSENT = "(not recorded)"


def read(path: Path) -> dict:
    """A metric file as {group: value}, its run's spec among them; ValueError when it is no metric file."""
    content = read_json(path)
    if not isinstance(content, dict) or not {"metric", "kind", "version", "provenance"} <= set(content):
        raise ValueError(f"{path}: not a metric file; allowed: <run>/eval/<scheme>/<metric>.json")
    made, run = content["provenance"], path.resolve().parents[2]
    spec = next((read_json(folder / "spec.json") for folder in (run, run.parent) if (folder / "spec.json").exists()), ABSENT)
    own = {name: content.get(name, ABSENT) for name in ("kind", "version", "settings", "scheme", "status", "value")}
    made = {name: made.get(name, ABSENT) for name in ("corpus", "weights", "run", "seed", "commit", "versions", "hardware")} | {
        "times": {name: made.get(name, ABSENT) for name in ("started", "ended")}
    }
    return own | made | {"spec": spec}


def flat(value, name: str) -> dict:
    """Nested dicts as {"a.b": value}."""
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part, inner in value.items() for key, leaf in flat(inner, f"{name}.{part}").items()}


def differences(a: dict, b: dict, groups) -> list[str]:
    """A line for each value of the groups that is not equal, or that one of the two does not tell."""
    lines = []
    for group in groups:
        one, two = flat(a[group], group), flat(b[group], group)
        for name in dict.fromkeys([*one, *two]):
            left, right = one.get(name, ABSENT), two.get(name, ABSENT)
            if left != right or (left == ABSENT and group in QUESTION):
                lines.append(f"  {name}: {left} | {right}")
    return lines


def report(a: dict, b: dict) -> tuple[bool, str]:
    """(whether the scores can be compared, the text that says so and why)."""
    question = differences(a, b, QUESTION)
    without = [] if a["status"] == b["status"] == "ok" else [f"  status: {a['status']} | {b['status']}"]
    comparable = not question and not without
    equal = a["value"] == b["value"]
    lines = [f"{'comparable' if comparable else 'not comparable'}: {a['value']} | {b['value']}" + (" (equal)" if equal else "")]
    for title, found in (
        ("another question was asked", question),
        ("there is no score", without),
        ("what the scores compare", differences(a, b, COMPARED)),
        ("circumstances, which can move the last bits", differences(a, b, CIRCUMSTANCES)),
    ):
        if found:
            lines += [f"{title}:", *found]
    return comparable, "\n".join(lines)


@process.guarded
def main(argv=None) -> int:
    """Print what differs."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs=2, type=Path, metavar="FILE", help="a metric file: <run>/eval/<scheme>/<metric>.json")
    options = parser.parse_args(argv)
    comparable, text = report(*(read(path) for path in options.files))
    print(text)
    return 0 if comparable else 1


if __name__ == "__main__":
    process.tell(main)
