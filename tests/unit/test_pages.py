"""Findings from tables by hand, marked words, and a page whose texts can't break out of it."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

from docutils.core import publish_parts
from jinja2 import Environment

from scripts import pages
from scripts.core.analysis import columns, findings, style, tables

BASE = {"corpus": "c", "method": "npo", "regularizer": "gdr", "lr": "1e-5", "moments": "bf16", "checkpoint": "", "seed": 0}


def frames(scores, back):
    return tables.frame(scores, columns.SCORES), tables.frame(back, columns.RECOVERY)


def cell(weights, scheme, metric="verbmem_f", **more):
    kind, split = metric.split("_")[0], {"f": "forget", "r": "retain"}[metric[-1]]
    row = BASE | {"run": weights, "weights": weights, "setting": weights, "scheme": scheme, "metric": metric, "kind": kind}
    return row | {"split": split, "status": "ok"} | more


def test_sentences_are_filled_from_the_tables():
    scores = [
        cell(w, s, m, value=v) for w in ("bf16", "fp32") for s, m, v in (("full", "knowmem_r", 50.0), ("rtn", "knowmem_r", 44.0))
    ]
    scores.append(cell("bf16", "rtn", value=None, status="diverged"))
    back = [cell(w, "full", unlearned=20.0, target=100.0) for w in ("bf16", "fp32")]
    back.append(cell("bf16", "rtn", unlearned=90.0, target=100.0, R=0.9, R_low=0.8, R_high=0.95))
    back.append(cell("fp32", "rtn", unlearned=10.0, target=100.0, R=-0.1, R_low=-0.3, R_high=0.1))
    ran, retained, returned, weights, cost = findings.sentences(*frames(scores, back))
    assert "2 unlearned models were scored" in ran and "4 scores, 1 diverged" in ran
    assert "20 % of the target" in retained and "50 % under rtn" in retained
    assert "in 1 of 2 cells" in returned and "90 % [80, 95]" in returned
    assert "90 % with bf16 weights (1 cell) and -10 % with fp32 weights" in weights and "-6.0 points" in cost


def test_what_cannot_be_told_is_said():
    found = findings.sentences(*frames([cell("bf16", "full", value=1.0)], []))
    assert len(found) == 5 and all("can't be told" in one for one in found[1:])


def share(weights, scheme, value, **more):
    """A row of recovery whose R is `value`, of VerbMem unless said."""
    return cell(weights, scheme, unlearned=20.0, target=100.0, R=value, R_low=value - 0.1, R_high=value + 0.1, **more)


def test_without_a_regularizer_the_scheme_is_that_of_the_largest_recovery():
    back = [share(w, s, r, regularizer="none") for s, low in (("nf4", 0.0), ("rtn", 0.5)) for w, r in (("bf16", low), ("fp32", 0))]
    scores = [cell("bf16", s, "knowmem_r", value=v, regularizer="none") for s, v in (("full", 50.0), ("nf4", 1.0), ("rtn", 47.0))]
    _, retained, _, weights, cost = findings.sentences(*frames(scores, back))
    assert "can't be told: no model with a regularizer" in retained
    assert "Under rtn" in weights and "50 % with bf16 weights (1 cell) and 0 % with fp32" in weights and "-3.0 points" in cost


def test_why_no_recovery_is_known_is_not_guessed():
    def reason(*reasons):
        back = [cell("bf16", "rtn", run=str(i), unlearned=20.0, R_reason=one) for i, one in enumerate(reasons)]
        return findings.sentences(*frames([], back))[2]

    little = "undefined: the interval of target under the scheme minus unlearned at full precision holds 0 (-1.0 to 3.0)"
    assert "under no scheme does the target score clearly above" in reason(little, little)
    assert "scores that it takes are not there" in reason(little, "missing: the target under rtn is not in the sweep")
    assert "was not scored under any scheme" in reason()


def test_arithmetic_on_checkpoints_has_no_precision_of_weights():
    back = [cell("bf16", "full", unlearned=20.0, target=100.0), share("bf16", "rtn", 0.9)]
    back.append(share("", "rtn", 0.1, method="task_vector", regularizer="none"))
    _, _, returned, weights, _ = findings.sentences(*frames([], back))
    assert "in 1 of 2 cells" in returned and "for fewer than two precisions" in weights


def test_models_are_counted_once_whatever_their_seeds_and_metrics():
    scores, back = [cell("", "full", run="target", method="target", value=100.0)], []
    for seed in (0, 1, tables.POOLED):
        for scheme, value in (("full", 50.0), ("rtn", 50.0 - 6 * (seed == 1))):
            scores.append(cell("bf16", scheme, "knowmem_r", run=str(seed), seed=seed, value=value))
            scores.append(cell("bf16", scheme, "knowmem_more_r", kind="knowmem", run=str(seed), seed=seed, value=0.0))
        rows = [share("bf16", "rtn", 0.9, seed=seed), cell("bf16", "full", unlearned=20.0, target=100.0, seed=seed)]
        back += [row | {"metric": metric} for metric in ("verbmem_f", "verbmem_hot_f") for row in rows]
    scores.append(cell("fp32", "full", "knowmem_r", run="2", status="diverged"))
    ran, retained, returned, _, cost = findings.sentences(*frames(scores, back))
    assert "(1 cell; the target under the same scheme)" in retained
    assert ran.startswith("2 of 3 unlearned models were scored under full, rtn: 9 scores (with those of target and retrain)")
    assert "in 1 of 1 cell (" in returned and "-3.0 points under rtn (median of 2 models)" in cost


def test_shares_are_sums_and_what_is_told_of_several_cells_is_a_median():
    scores, back = [cell("", s, "knowmem_r", run="target", method="target", value=v) for s, v in (("full", 90.0), ("rtn", 0.0))], []
    for run, target, rtn, r, cost in (("a", 100.0, 80.0, 0.9, -1.0), ("b", 50.0, 10.0, 0.2, -2.0), ("c", 50.0, 10.0, 0.1, -30.0)):
        for weights in ("bf16", "fp32"):
            named = {"run": run + weights, "setting": run + weights, "target": target}
            back.append(share(weights, "full", 0.0) | named | {"unlearned": target / 10 if run == "a" else 0.0})
            back.append(share(weights, "rtn", r) | named | {"unlearned": rtn})
            back.append(share(weights, "nf4", 0.0) | named | {"unlearned": 1.0})
            back.append(share(weights, "rtn", 1.0, checkpoint="step3") | named | {"unlearned": target})
            for scheme, value in (("full", 50.0), ("rtn", 50.0 + cost)):
                scores.append(cell(weights, scheme, "knowmem_r", value=value) | named)
                scores.append(cell(weights, scheme, "knowmem_r", value=0.0, checkpoint="step3") | named)
    ran, retained, returned, weights, cost = findings.sentences(*frames(scores, back))
    assert ran.startswith("6 unlearned models were scored under full, rtn: 14 scores (with")
    assert "5 % of the target's forget scores at full precision and 50 % under rtn" in retained  # means: 3 and 40 %
    assert "in 4 of 12 cells" in returned and "90 % [80, 100]" in returned
    assert "20 % with bf16 weights (3 cells) and 20 % with fp32 weights (3 cells)" in weights
    assert cost == "KnowMem on the retain set changes by -2.0 points under rtn (median of 6 models)."
    other = frames([score | {"kind": "verbmem"} for score in scores], back)
    assert findings.sentences(*other)[-1].startswith("VerbMem on the retain set changes by -2.0 points")


def test_one_model_was_scored_and_by_recovery_the_usual_cell_counts():
    back = [share("bf16", s, r, run=str(i), setting=str(i), regularizer="none")
            for s, shares in (("nf4", (0.9, 0.0, 0.0)), ("rtn", (0.5, 0.5, 0.4))) for i, r in enumerate(shares)]  # fmt: skip
    scores = [cell("bf16", "full", value=1.0, run="0"), cell("bf16", "full", value=None, status="diverged", run="1")]
    told = findings.sentences(*frames(scores, back))
    assert told[0].startswith("1 of 2 unlearned models was scored under full: 1 score, 1 diverged")
    assert "under rtn for fewer than two precisions" in told[3]


def test_a_cost_takes_a_model_with_both_scores():
    scores = [cell("bf16", "full", "knowmem_r", value=50.0), cell("bf16", "rtn", "knowmem_r", status="not finite")]
    scores += [cell("fp32", "full", "knowmem_r", status="not finite"), cell("fp32", "rtn", "knowmem_r", value=40.0)]
    cost = findings.sentences(*frames(scores, [share("bf16", "rtn", 0.9)]))[4]
    assert "no unlearned model has KnowMem on the retain set both at full precision and under rtn" in cost
    assert "by which it could be chosen" in findings.sentences(*frames(scores, []))[4]


def test_words_in_common_are_marked_and_texts_escaped():
    assert pages.marked("The <b>cat</b> sat", "a cat sat") == "The &lt;b&gt;<mark>cat</mark>&lt;/b&gt; <mark>sat</mark>"
    assert "<mark>" not in pages.marked("none here", "") and pages.marked("", "a") == ""


def test_a_page_holds_every_row_and_no_text_ends_its_script(tmp_path):
    scores, back = frames([cell("bf16", "full", value=1.0, setting="</script><p>")], [])
    text, _ = pages.page({"scores": scores, "recovery": back}, tmp_path, [])
    data = text.split('id="data">')[1].split("</script>")[0]
    row = dict(zip(pages.COLUMNS, json.loads(data)["rows"][0], strict=True))
    assert (
        row["setting"] == "</script><p>"
        and row["value"] == 1.0
        and row["file"] == ""
        and "http" not in text.split("<body")[0][:200]
    )


def front(*files):
    """The report's front page as HTML, rendered as Snakemake does it: Jinja, then reStructuredText."""
    text = (pages.CAPTIONS / "workflow.rst").read_text(encoding="utf-8")
    text += "".join(f"\n\n.. _{file.target}: javascript:void(0)" for file in files)
    rendered = Environment(trim_blocks=True, lstrip_blocks=True).from_string(text).render(files=files)
    return publish_parts(rendered, writer="html", settings_overrides={"halt_level": 2})["html_body"]


def test_figures_stand_by_what_they_tell_and_empty_ones_are_only_named(tmp_path):
    for name, message in (("cost", ""), ("full_vs_quantized", ""), ("salient_modules", "no masks")):
        drawn = style.empty(message) if message else style.figure()
        style.save(drawn, tmp_path / name)
    made = pages.figures([tmp_path / f"{name}.svg" for name in ("cost", "full_vs_quantized", "salient_modules")])
    assert re.findall(r'<figure id="(\w+)"', made) == ["full_vs_quantized", "cost"]
    assert "nothing to draw for: salient_modules." in made


def test_the_front_page_has_the_sentences_as_they_are(tmp_path):
    odd = "a_b *x* `y` <b> {{ z }} foo_ | back\\slash"
    (tmp_path / "findings.txt").write_text(f"{odd}\nsecond\n")
    files = [SimpleNamespace(target=name, path=Path(tmp_path / name)) for name in ("results.html", "findings.txt")]
    assert f"<li>{odd.replace('<b>', '&lt;b&gt;')}</li>\n<li>second</li>" in front(*files)


def test_a_report_of_a_part_says_that_it_has_no_findings():
    assert "not told here" in front() and "<li>second" not in front()
