"""A small corpus of real text: which articles give a passage, what the folder holds, and what is refused."""

import random

import pytest

from scripts import passages
from scripts.core import registry
from scripts.core.storage import read_json, write_json

COUNTS = ["--forget", "2", "--retain", "3", "--retain2", "1", "--holdout", "2", "--words", "12", "--prompt", "4"]


def text(number: int, count: int = 30) -> list[str]:
    """Words that no other number's text has in the same order."""
    words = random.Random(number)
    return [f"w{words.randrange(1000)}" for _ in range(count)]


@pytest.fixture
def source(tmp_path):
    """A folder in the MUSE layout: 14 articles: 1 and 4 begin alike, 2 holds words 5 to 12 of 6, 0 and 3 are short, 5 is empty."""
    texts = [text(number) for number in range(14)]
    texts[0] = texts[0][:12]
    texts[4] = texts[1][:20] + text(99, 10)
    texts[2] = texts[2][:15] + texts[6][4:12] + texts[2][15:]
    texts[3], texts[5] = texts[3][:11], []
    write_json(tmp_path / "muse/raw/forget.json", ["  " + "\n\n".join(words) for words in texts])
    return tmp_path / "muse", texts


def test_passages_are_of_articles_with_a_beginning_of_their_own(source, tmp_path, capsys):
    folder, texts = source
    out = tmp_path / "out"
    assert passages.main(["--source", str(folder), "--out", str(out), *COUNTS]) == 0
    assert "2 passages of forget text" in capsys.readouterr().out
    taken = {"forget": [0, 2], "retain1": [7, 8, 9], "retain2": [10], "holdout": [11, 12], "pretrain": [1, 3, 4, 6, 13]}
    for name, numbers in taken.items():
        whole = None if name == "pretrain" else 12
        assert read_json(out / f"raw/{name}.json") == [" ".join(texts[number][:whole]) for number in numbers]
        assert read_json(out / f"units/raw/{name}.json") == [f"article {number}" for number in numbers]
    first = read_json(out / "verbmem/forget.json")[1]
    assert first == {"prompt": " ".join(texts[2][:4]), "gt": " ".join(texts[2][4:12]), "unit": "article 2"}
    assert [pair["unit"] for pair in read_json(out / "verbmem/retain.json")] == ["article 7", "article 8", "article 9"]
    for name, raw in (("forget", "forget"), ("retain", "retain1"), ("holdout", "holdout")):
        assert read_json(out / f"privleak/{name}.json") == read_json(out / f"raw/{raw}.json")
        assert read_json(out / f"units/privleak/{name}.json") == read_json(out / f"units/raw/{raw}.json")


def test_the_folder_is_a_corpus_for_a_model_from_scratch(source, tmp_path):
    """Here of all articles whose first eight words are their own, in a folder that was there, empty."""
    out = tmp_path / "out"
    out.mkdir()
    least = ["--holdout", "5", "--words", "8", "--prompt", "1"]
    assert passages.main(["--source", str(source[0]), "--out", str(out), *COUNTS, *least]) == 0
    splits = ["forget", "retain1", "retain2", "holdout", "pretrain"]
    settings = {"source": str(out), "splits": splits, "tasks": ["verbmem", "privleak"], "revision": "main", "name": "x"}
    plugin = registry.load("corpora", "muse")
    plugin.check(settings)
    plugin.build(settings, tmp_path / "built")
    assert read_json(tmp_path / "built/units/raw/pretrain.json") == [f"article {number}" for number in (1, 4)]
    assert (tmp_path / "built/verbmem/retain.json").is_file()


@pytest.mark.parametrize(
    "more, words",
    [
        (["--forget", "5"], "--source: 9 of 14 articles have a beginning of their own; allowed: at least 11"),
        (["--holdout", "0"], "--holdout: 0 is not allowed; allowed: at least 1"),
        (["--words", "7"], "--words: 7 is not allowed; allowed: at least 8"),
        (["--prompt", "12"], "--prompt: 12 is not allowed; allowed: 1 to 11, fewer than --words"),
    ],
)
def test_what_can_not_be_is_one_line(source, tmp_path, capsys, more, words):
    assert passages.main(["--source", str(source[0]), "--out", str(tmp_path / "out"), *COUNTS, *more]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_is_not_replaced(source, tmp_path, capsys, kind):
    out = tmp_path / "out"
    mine = out if kind == "file" else out / "mine.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    assert passages.main(["--source", str(source[0]), "--out", str(out), *COUNTS]) == 2
    assert f"--out: {str(out)!r} exists; allowed: a new folder" in capsys.readouterr().err and mine.read_text() == "mine"
