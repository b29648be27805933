"""Cells that forget alike: which are kept, what stands beside them, and what can't be asked for."""

import math

import pytest

from scripts import alike
from scripts.core.analysis import columns, tables

BASE = {"corpus": "c", "method": "npo", "regularizer": "gdr", "lr": "1e-5", "moments": "bf16", "checkpoint": "", "seed": "0"}


def row(setting, scheme, metric, value, **more):
    kind, _, split = metric.partition("_")
    split = {"f": "forget", "r": "retain"}[split]
    kind = {"ppl": "perplexity"}.get(kind, kind)
    made = BASE | {"run": setting, "setting": setting, "weights": setting.split("_")[0], "scheme": scheme, "metric": metric}
    made |= {"kind": kind, "split": split, "status": "ok", "value": value, "low": value, "high": value, "max_steps": "70.0"}
    return made | ({"method": "target", "weights": "", "setting": ""} if setting == "target" else {}) | more


@pytest.fixture
def sweep():
    """NLL 0 at the target; cells that forgot 0.5, 1, 1.1 and 2 nats; the last diverged under the scheme."""
    nats = {"target": 0.0, "bf16_short": 0.5, "bf16": 1.0, "fp32": 1.1, "fp32_long": 2.0}
    scores = [row(name, "full", "ppl_f", math.exp(nll)) for name, nll in nats.items()]
    scores += [row(name, "rtn", "ppl_f", math.exp(nll / 2)) for name, nll in nats.items() if name != "fp32_long"]
    scores += [row("fp32_long", "rtn", "ppl_f", None, status="diverged")]
    scores += [row(name, scheme, "knowmem_r", 50.0) for name in nats for scheme in ("full", "rtn")]
    back = [row("bf16", "rtn", "ppl_f", None, R=0.5, R_low=0.4, R_high=0.6)]
    return tables.frame(scores, columns.SCORES), tables.frame(back, columns.RECOVERY)


def test_cells_are_kept_by_what_they_forgot_of_the_log_likelihood(sweep):
    rows = alike.alike(*sweep, ["bf16"], "ppl_f")
    shares = {made["setting"]: made["forgotten"] for made in rows}
    assert shares == {"bf16": 1.0, "fp32": pytest.approx(1.1)}
    some = {made["setting"] for made in alike.alike(*sweep, ["bf16"], "ppl_f", within=0.7)}
    assert some == {"bf16_short", "bf16", "fp32"}
    one = next(made for made in rows if (made["setting"], made["scheme"], made["metric"]) == ("bf16", "rtn", "ppl_f"))
    assert (one["target"], one["R"], one["R_low"], one["max_steps"], one["like"]) == (1.0, 0.5, 0.4, 70, "bf16")


def test_corpora_are_measured_by_their_own_targets_and_metrics_have_their_own_recovery(sweep):
    """In a corpus whose target is at 0.5 nats, the same cell forgot half a nat."""
    scores, back = sweep
    other = [row(name, scheme, "ppl_f", math.exp(nll), corpus="d")
             for name, nll in (("target", 0.5), ("bf16", 1.0), ("fp32", 1.1)) for scheme in ("full", "rtn")]  # fmt: skip
    both = tables.frame([*scores.to_dict("records"), *other], columns.SCORES)
    found = {
        (made["corpus"], made["setting"], made["scheme"], made["metric"]): made
        for made in alike.alike(both, back, ["bf16"], "ppl_f", within=0.3)
    }
    assert found["c", "fp32", "full", "ppl_f"]["forgotten"] == pytest.approx(1.1)
    assert found["d", "fp32", "full", "ppl_f"]["forgotten"] == pytest.approx(1.2)
    with_recovery = [key for key, made in found.items() if not math.isnan(made["R"])]
    assert with_recovery == [("c", "bf16", "rtn", "ppl_f")]


def test_a_setting_that_one_corpus_alone_has_is_told_of_that_one(sweep):
    scores, back = sweep
    other = [row(name, "full", "ppl_f", math.exp(nll), corpus="d") for name, nll in (("target", 0.0), ("fp32", 1.1))]
    both = tables.frame([*scores.to_dict("records"), *other], columns.SCORES)
    found = {(made["corpus"], made["like"]) for made in alike.alike(both, back, ["bf16", "fp32"], "ppl_f")}
    assert found == {("c", "bf16"), ("c", "fp32"), ("d", "fp32")}


def test_of_a_training_its_end_counts(sweep):
    """Checkpoints along it are cells of the same setting, with scores and recovery of their own."""
    along = [row("fp32_long", scheme, "ppl_f", math.exp(1.0), checkpoint="step3") for scheme in ("full", "rtn")]
    back = [row("bf16", "rtn", "ppl_f", None, R=0.9, R_low=0.8, R_high=1.0, checkpoint="step3")]
    tables_of = zip(sweep, (along, back), (columns.SCORES, columns.RECOVERY), strict=True)
    more = [tables.frame([*there.to_dict("records"), *rows], names) for there, rows, names in tables_of]
    assert alike.shown(alike.alike(*more, ["bf16"], "ppl_f")) == alike.shown(alike.alike(*sweep, ["bf16"], "ppl_f"))


def test_the_table_shows_recovery_on_the_forget_set_and_scores_on_the_retain_set(sweep):
    text = alike.shown(alike.alike(*sweep, ["bf16"], "ppl_f", within=1.5))
    assert text.count("| Perplexity, forget set | forgotten | full | rtn, R in % |") == 1
    assert "| bf16 | 100 % | 2.72 [2.72, 2.72] | 50 [40, 60] |" in text and "| fp32_long | 200 % | 7.39 [7.39, 7.39] | – |" in text
    assert "| target | 0 % | 1.00 | 1.00 |" in text
    assert "| KnowMem, retain set | forgotten | full | rtn |" in text and "| fp32 | 110 % | 50.0 [50.0, 50.0]" in text


def test_a_metric_that_tells_no_knowledge_of_the_forget_set_shows_scores(sweep):
    """Fluency of text that begins as forget text does has no R, and what was forgotten can't be told by it."""
    scores, back = sweep
    more = [row(name, scheme, "fluency_f", 500.0) for name in ("target", "bf16") for scheme in ("full", "rtn")]
    both = tables.frame([*scores.to_dict("records"), *more], columns.SCORES)
    text = alike.shown(alike.alike(both, back, ["bf16"], "ppl_f"))
    assert (
        "| fluency_f, forget set | forgotten | full | rtn |" in text and "| bf16 | 100 % | 500.0 [500.0, 500.0] | 500.0 [" in text
    )
    with pytest.raises(ValueError, match="allowed: ppl_f$"):
        alike.alike(both, back, ["bf16"], "fluency_f")


def test_without_full_precision_nothing_is_told(sweep):
    scores, back = sweep
    with pytest.raises(ValueError, match="no unlearned cell has 'ppl_f' at full precision"):
        alike.alike(scores[scores.scheme != "full"], back, ["bf16"], "ppl_f")


def test_the_program_writes_its_rows_and_refuses_unknown_names(sweep, tmp_path, capsys):
    for name, table in zip(("scores", "recovery"), sweep, strict=True):
        tables.write(table, tmp_path / f"{name}.csv")
    call = ["--tables", str(tmp_path), "--out", str(tmp_path / "alike.csv"), "--by", "ppl_f", "--like"]
    assert alike.main([*call, "bf16"]) == 0
    written = tables.read(tmp_path, ["alike"])["alike"]
    assert list(written.columns) == alike.COLUMNS
    one = written[(written.setting == "bf16") & (written.scheme == "rtn") & (written.metric == "ppl_f")].iloc[0]
    assert one[["low", "high", "target", "R", "R_low", "R_high", "forgotten"]].tolist() == [
        one["value"],
        one["value"],
        1,
        0.5,
        0.4,
        0.6,
        1,
    ]
    assert "forget like bf16" in (said := capsys.readouterr().out) and "bf16_short" not in said
    assert alike.main([*call, "bf16", "--within", "0.7"]) == 0 and "| bf16_short | 50 % |" in capsys.readouterr().out
    assert alike.main([*call, "bf61"]) == 2 and "'bf61'" in capsys.readouterr().err
    assert alike.main([*call[:-2], "knowmem_r", "--like", "bf16"]) == 2
    assert "allowed: ppl_f" in capsys.readouterr().err


def test_a_cell_that_forgot_nothing_can_not_be_the_measure(sweep):
    scores, back = sweep
    scores.loc[(scores.setting == "bf16") & (scores.scheme == "full"), "value"] = 1.0
    with pytest.raises(ValueError, match="npo_gdr 'bf16' has no forgetting"):
        alike.alike(scores, back, ["bf16"], "ppl_f")
