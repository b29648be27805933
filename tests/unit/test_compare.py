"""Two metric files beside each other: the same question or not, what is compared, and circumstances."""

import copy
import json

import pytest

from scripts import compare

FILE = {
    "metric": "verbmem_f", "kind": "verbmem", "version": 1, "settings": {"split": "forget"}, "scheme": {"name": "full"},
    "status": "ok", "value": 12.5,
    "provenance": {
        "run": "people/ga_none/x/seed0", "seed": 0, "weights": "aa", "corpus": "cc", "commit": "dd", "started": "1", "ended": "2",
        "versions": {"torch": "2.13.0"}, "hardware": {"cores": 2},
    },
}  # fmt: skip


def pair(tmp_path, change=lambda b: None, spec=None):
    """Paths of FILE and of a changed copy, each in a run folder of its own."""
    paths, second = [], copy.deepcopy(FILE)
    change(second)
    for i, content in enumerate((FILE, second)):
        path = tmp_path / str(i) / "eval/full/verbmem_f.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
        (tmp_path / str(i) / "spec.json").write_text(json.dumps({"training": {"lr": spec if spec and i else "1e-5"}}))
        paths.append(str(path))
    return paths


def test_equal_scores(tmp_path, capsys):
    assert compare.main(pair(tmp_path)) == 0
    assert capsys.readouterr().out == "comparable: 12.5 | 12.5 (equal)\n"


def test_what_is_compared_and_circumstances(tmp_path, capsys):
    def change(b):
        b["value"], b["provenance"]["weights"], b["provenance"]["versions"]["torch"] = 80.0, "bb", "2.14.0"

    assert compare.main(pair(tmp_path, change, spec="1e-4")) == 0
    out = capsys.readouterr().out
    assert "what the scores compare:\n  weights: aa | bb\n  spec.training.lr: 1e-5 | 1e-4\n" in out
    assert out.endswith("circumstances, which can move the last bits:\n  versions.torch: 2.13.0 | 2.14.0\n")


@pytest.mark.parametrize(
    "path, value, told",
    [
        (("version",), 2, "version: 1 | 2"),
        (("settings", "split"), "retain", "settings.split: forget | retain"),
        (("provenance", "corpus"), "ee", "corpus: cc | ee"),
        (("status",), "diverged", "status: ok | diverged"),
    ],
)
def test_another_question_or_no_score(tmp_path, capsys, path, value, told):
    def change(b):
        for key in path[:-1]:
            b = b[key]
        b[path[-1]] = value

    assert compare.main(pair(tmp_path, change)) == 1
    out = capsys.readouterr().out
    assert out.startswith("not comparable") and told in out


def test_a_corpus_that_is_not_recorded_is_not_taken_for_equal(tmp_path, capsys):
    paths = pair(tmp_path)
    for path in paths:
        content = copy.deepcopy(FILE)
        del content["provenance"]["corpus"]
        open(path, "w").write(json.dumps(content))
    assert compare.main(paths) == 1
    assert "corpus: (not recorded) | (not recorded)" in capsys.readouterr().out


def test_a_file_that_is_no_metric_file_is_named(tmp_path, capsys):
    wrong = tmp_path / "a/b/c/d.json"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("{}")
    assert compare.main([str(wrong), str(wrong)]) == 2
    assert compare.main([str(wrong), str(tmp_path / "none.json")]) == 2
    assert "not a metric file" in capsys.readouterr().err
