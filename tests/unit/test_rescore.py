"""Rescoring: zero difference on what was recorded, a visible one on anything else, and no heavy import."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import rescore

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT.parent / "shared" / "reference" / "golden"
OWN = ROOT / "tests" / "golden" / "scores.json"


def lines(capsys, *paths):
    status = rescore.main([str(path) for path in paths])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", ["ga_klr", "npo_klr", "tv"])
def test_recorded_runs_of_7b_models_come_out_exactly(name, capsys):
    path = GOLDEN / f"{name}.json"
    if not path.exists():
        pytest.skip("../shared/reference/golden is not here")
    status, found = lines(capsys, path)
    assert status == 0 and {one["max_abs_diff"] for one in found} == {0.0}
    recorded = json.loads(path.read_text())
    assert {one["metric"] for one in found} == set(recorded) - {"corpus"}
    for one in found:
        part = recorded[one["metric"]]
        wanted = part["auc"]["forget_holdout_Min-40%"] if one["metric"] == "privleak" else part["mean"]["rougeL"]
        assert one["mean"] == wanted and one["n"] == 100


def test_own_golden_file_by_libraries_and_pair_counting(capsys):
    from rouge_score.rouge_scorer import RougeScorer

    status, found = lines(capsys, OWN)
    assert status == 0 and [one["max_abs_diff"] for one in found] == [0.0] * 3
    content, scorer = json.loads(OWN.read_text()), RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    for part in (content["verbmem_f"], content["knowmem_r"]):
        for sample in part["samples"]:
            wanted = scorer.score(sample["gt"], sample["response"])
            assert sample["rougeL"] == wanted["rougeL"].fmeasure and sample["rouge1_recall"] == wanted["rouge1"].recall
        assert part["mean"]["rougeL"] == pytest.approx(sum(s["rougeL"] for s in part["samples"]) / len(part["samples"]))
    scores = content["privleak"]["scores"]
    for key, value in content["privleak"]["auc"].items():
        one, two, name = key.split("_", 2)
        pairs = [(x > y) + 0.5 * (x == y) for x in scores[one][name] for y in scores[two][name]]
        assert value == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def change(content, *place, by=1e-6):
    *path, last = place
    for key in path:
        content = content[key]
    content[last] += by


@pytest.mark.parametrize(
    "place",
    [
        ("verbmem_f", "samples", 1, "rougeL"),
        ("verbmem_f", "samples", 0, "rouge1_recall"),
        ("knowmem_r", "mean", "rouge1"),
        ("knowmem_r", "mean", "rougeL"),
        ("privleak", "auc", "forget_retain_PPL/zlib"),
        ("privleak", "auc", "forget_holdout_Min-40%"),
    ],
)
def test_any_changed_number_is_found(place, tmp_path, capsys):
    content = json.loads(OWN.read_text())
    change(content, *place)
    (tmp_path / "x.json").write_text(json.dumps(content))
    status, found = lines(capsys, tmp_path / "x.json")
    assert status == 1
    assert {one["metric"]: one["max_abs_diff"] for one in found}[place[0]] == pytest.approx(1e-6, rel=1e-3)


def test_changed_text_is_found(tmp_path, capsys):
    content = json.loads(OWN.read_text())
    content["knowmem_r"]["samples"][0]["response"] = "something else"
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert lines(capsys, tmp_path / "x.json")[0] == 1


def test_metric_file_and_diverged_file(tmp_path, capsys):
    part = json.loads(OWN.read_text())["verbmem_f"]
    ok = {"metric": "verbmem_f", "kind": "verbmem", "status": "ok", "n": len(part["samples"]), **part}
    ok["value"] = 100 * part["mean"]["rougeL"]
    gone = {"metric": "privleak", "kind": "privleak", "status": "diverged", "value": None, "n": 0, "samples": []}
    wrong = copy.deepcopy(ok) | {"value": ok["value"] + 1}
    zero = gone | {"value": 0.0}
    for name, content in (("ok", ok), ("gone", gone), ("wrong", wrong), ("zero", zero)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    status, found = lines(capsys, tmp_path / "ok.json", tmp_path / "gone.json")
    assert status == 0 and found[1]["mean"] is None and found[1]["n"] == 0
    status, found = lines(capsys, tmp_path / "wrong.json")
    assert status == 1 and found[0]["max_abs_diff"] == pytest.approx(1)
    assert lines(capsys, tmp_path / "zero.json")[0] == 1  # a failed run with the score 0


def test_a_metric_of_ones_own_need_not_tell_a_mean(monkeypatch):
    monkeypatch.setattr("scripts.metrics.knowmem.rescore", lambda content: {"value": 50.0, "n": 2})
    found = rescore.rescore({"kind": "knowmem", "value": 50.0, "n": 2})
    assert found == {"n": 2, "mean": 0.5, "max_abs_diff": 0.0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not readable as JSON"),
        ("[]", "holds no metric"),
        ('{"nomem_f": {"samples": []}}', "unknown name 'nomem'"),
        ('{"knowmem_f": {"samples": [{"gt": "a"}]}}', "lacks what its metric records"),
        ('{"knowmem_f": {"samples": []}}', "lacks what its metric records"),
        ('{"verbmem_f": {"samples": [{"response": "a", "gt": 5}]}}', "lacks what its metric records"),
    ],
)
def test_bad_files_are_one_line(content, said, tmp_path, capsys):
    (tmp_path / "x.json").write_text(content)
    assert rescore.main([str(tmp_path / "x.json")]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_command_needs_no_model_library():
    code = "import sys; from scripts import rescore; status = rescore.main(sys.argv[1:])\n"
    code += "assert not {'torch', 'transformers', 'sklearn', 'nltk'} & set(sys.modules); sys.exit(status)"
    subprocess.run([sys.executable, "-c", code, str(OWN)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
