"""A small corpus of real text: beginnings of a MUSE corpus's articles, few and short enough for a small model to learn by heart.

usage: python -m scripts.passages --source muse-bench/MUSE-News --out DIR

An article whose beginning shares eight words in a row with another one (a copy, a live page's notice) gives none. The first that
are left make the forget set, the next ones retain, retain2 and holdout text, all in the order of the source; every other article is
whole text to pre-train on. White space becomes single spaces. DIR is a folder in the MUSE layout with an article's number as the
unit: `source` of a corpus of kind muse with `splits: [forget, retain1, retain2, holdout, pretrain]`, `tasks: [verbmem, privleak]`.
"""

import argparse
import tempfile
from pathlib import Path

from scripts.core import process, registry
from scripts.core.storage import read_json, whole_folder, write_json

RUN = 8  # words in a row that tell that two articles have text in common
SPLITS = {"forget": 12, "retain": 32, "retain2": 8, "holdout": 16}  # passages, unless the command line says otherwise


def articles(source: str, revision: str) -> list[list[str]]:
    """The words of each article of raw/forget of a hub data set or a folder in the MUSE layout."""
    plugin = registry.load("corpora", "muse")
    wanted = {"source": source, "revision": revision, "splits": ["forget"], "tasks": []}
    with tempfile.TemporaryDirectory() as folder:
        plugin.build(wanted, folder)
        return [text.split() for text in read_json(Path(folder) / "raw" / "forget.json")]


def runs(words: list[str]) -> set[tuple]:
    """Every `RUN` words in a row."""
    return {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}


def alone(texts: list[list[str]], words: int) -> list[int]:
    """Numbers of the texts of at least `words` words whose first `words` share no run with another text."""
    first, repeated = {}, set()
    for number, text in enumerate(texts):
        for run in runs(text):
            if first.setdefault(run, number) != number:
                repeated.add(run)
    return [number for number, text in enumerate(texts) if len(text) >= words and not repeated & runs(text[:words])]


def split(texts: list[list[str]], words: int, counts: dict) -> dict[str, list[int]]:
    """{split: numbers of its articles}, "pretrain" with all others. ValueError where there are too few."""
    fit, wanted = alone(texts, words), sum(counts.values())
    if len(fit) < wanted:
        raise ValueError(f"--source: {len(fit)} of {len(texts)} articles have a beginning of their own; allowed: at least {wanted}")
    parts, start = {}, 0
    for name, count in counts.items():
        parts[name], start = fit[start : start + count], start + count
    taken = set(fit[:wanted])
    return parts | {"pretrain": [number for number, text in enumerate(texts) if text and number not in taken]}


def write(texts: list[list[str]], parts: dict, words: int, prompt: int, folder: Path) -> None:
    """Write the corpus of `split` to a folder. words, prompt: of a passage, and of its beginning that VerbMem gives the model."""
    passages = {name: [" ".join(texts[number][:words]) for number in numbers] for name, numbers in parts.items()}
    passages["pretrain"] = [" ".join(texts[number]) for number in parts["pretrain"]]
    units = {name: [f"article {number}" for number in numbers] for name, numbers in parts.items()}
    for name in parts:
        raw = "retain1" if name == "retain" else name
        write_json(folder / "raw" / f"{raw}.json", passages[name])
        write_json(folder / "units" / "raw" / f"{raw}.json", units[name])
    for name in ("forget", "retain"):
        cut = [
            (texts[number][:prompt], texts[number][prompt:words], unit)
            for number, unit in zip(parts[name], units[name], strict=True)
        ]
        pairs = [{"prompt": " ".join(begin), "gt": " ".join(rest), "unit": unit} for begin, rest, unit in cut]
        write_json(folder / "verbmem" / f"{name}.json", pairs)
    for name in ("forget", "retain", "holdout"):
        write_json(folder / "privleak" / f"{name}.json", passages[name])
        write_json(folder / "units" / "privleak" / f"{name}.json", units[name])


@process.guarded
def main(argv=None) -> int:
    """Run the command line; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m scripts.passages", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", required=True, help="hub data set (owner/name) or folder in the MUSE layout; raw/forget is read"
    )
    parser.add_argument("--revision", default="main", help="branch, tag or commit of a hub data set (default: main)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder that is written")
    for name, count in SPLITS.items():
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N", help=f"passages of {name} text (default: {count})")
    parser.add_argument("--words", type=int, default=60, metavar="N", help="words of a passage (default: 60)")
    parser.add_argument(
        "--prompt", type=int, default=20, metavar="N", help="words of its beginning, VerbMem's prompt (default: 20)"
    )
    options = parser.parse_args(argv)
    if options.out.is_dir() and any(options.out.iterdir()) or options.out.is_file():
        raise ValueError(f"--out: {str(options.out)!r} exists; allowed: a new folder")
    counts = {name: getattr(options, name) for name in SPLITS}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"--{name}: {count} is not allowed; allowed: at least 1")
    if options.words < RUN:
        raise ValueError(f"--words: {options.words} is not allowed; allowed: at least {RUN}")
    if not 0 < options.prompt < options.words:
        raise ValueError(f"--prompt: {options.prompt} is not allowed; allowed: 1 to {options.words - 1}, fewer than --words")
    texts = articles(options.source, options.revision)
    parts = split(texts, options.words, counts)
    with whole_folder(options.out) as folder:
        write(texts, parts, options.words, options.prompt, folder)
    for name, numbers in parts.items():
        print(f"{options.out}: {len(numbers)} {'articles' if name == 'pretrain' else 'passages'} of {name} text")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
