"""Recovery by calibration set, and the table of schemes: by hand, by brute force, and with cells that are not there."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from scripts import calibration_effect, schemes
from scripts.core.analysis import columns, statistics, tables
from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.core.storage import write_json

MICRO = yaml.safe_load((Path(__file__).parents[1] / "workflow/micro.yaml").read_text())
FAMILY = {"q": {"kind": "gptq", "group": 8}, "q_forget": {"kind": "gptq", "group": 8, "calibration": "forget"}}


@pytest.fixture
def made(tmp_path):
    """(resolved configuration, results, {(stage, scheme): scores}) of one unlearned run under a family of two schemes."""
    config = copy.deepcopy(MICRO)
    config["schemes"] = {"full": {"kind": "full"}} | FAMILY
    config["metrics"] = {"verbmem_f": {"kind": "verbmem", "split": "forget"}}
    config["sweep"] = [{"corpus": "people", "method": "npo", "regularizer": "gdr", "lr": "1e-4"}]
    config = configuration.resolve(config)
    draw, scores = np.random.default_rng(0), {}
    low = {"full": 0.1, "q": 0.3, "q_forget": 0.4}
    for run in grid.plan(config).evaluated():
        for scheme in config["schemes"]:
            begin = low[scheme] if run.stage == "unlearn" else 0.9
            values = scores[run.stage, scheme] = draw.uniform(begin, begin + 0.1, 20)
            described = {"bits_per_weight": 4.5, "bytes": 1000, "seconds": 1.5, "quantized": 14, "left_alone": ["a", "b"]}
            described |= {"calibration": {"set": "forget"}} if scheme == "q_forget" else {}
            content = {"metric": "verbmem_f", "kind": "verbmem", "status": "ok", "value": 100 * values.mean(), "n": 20}
            content |= {"samples": [{"rougeL": float(v)} for v in values], "quantization": described, "bits_per_weight": 4.5}
            write_json(tmp_path / run.path / "eval" / scheme / "verbmem_f.json", content)
    return config, tmp_path, scores


def test_families_differ_in_the_set_alone():
    chosen = {name: {"kind": "gptq", "bits": 4, "calibration": name, "text": None} for name in ("generic", "forget")}
    chosen |= {"other": {"kind": "gptq", "bits": 3, "calibration": "forget", "text": None}, "full": {"kind": "full"}}
    assert calibration_effect.families(chosen) == [{"generic": "generic", "forget": "forget"}]


def test_difference_is_paired(made):
    config, results, scores = made
    table = tables.frame(calibration_effect.compare(config, results), columns.CALIBRATION_EFFECT)
    assert list(table.calibration) == ["generic", "forget"] and set(table.family) == {"q"} and set(table.base) == {"generic"}
    base, ours = table.iloc[0], table.iloc[1]

    def share(scheme, times=None):
        weights = np.ones(20) if times is None else times
        u, full, target = (np.average(scores[key], weights=weights) for key in
                           (("unlearn", scheme), ("unlearn", "full"), ("target", scheme)))  # fmt: skip
        return (u - full) / (target - full)

    assert (base.R, ours.R) == pytest.approx((share("q"), share("q_forget"))) and np.isnan(base.D)
    assert pytest.approx(ours.R - base.R) == ours.D
    drawn = [share("q_forget", times) - share("q", times) for times in statistics.counts(20)]
    assert (ours.D_low, ours.D_high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    assert ours.D_high - ours.D_low < (ours.R_high - ours.R_low) + (base.R_high - base.R_low)


def test_cells_that_are_not_there_are_named(made):
    config, results, _ = made
    next(results.glob("people/npo_gdr/*/seed0/eval/q/verbmem_f.json")).unlink()
    base, ours = calibration_effect.compare(config, results)
    assert base.get("R") is None and ours["R"] > 0
    assert ours["D_reason"].startswith("q: missing: the unlearned run") and "D" not in ours


def test_programs_write_their_tables_and_print_one(made, capsys):
    from scripts import aggregate

    config, results, scores = made
    write_json(results / "sweep.json", config)
    given = ["--sweep", str(results / "sweep.json"), "--results", str(results), "--out"]
    assert calibration_effect.main([*given, str(results / "calibration_effect.csv")]) == 0
    assert schemes.main([*given, str(results / "schemes.csv")]) == 0 and aggregate.main([*given, str(results)]) == 0
    table = tables.read(results, ["schemes"])["schemes"]
    assert len(table) == 3 * 3 and list(table.calibration[:3]) == ["", "", "forget"] and table.seconds.iloc[0] == 1.5
    assert set(table.left_alone) == {"a b"} and set(table.seed) == {"0"} and set(table.quantizer) == {"full", "gptq"}
    capsys.readouterr()
    assert schemes.main(["--tables", str(results)]) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("| q_forget |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["q_forget", "4.50", "0.00", "1.5"]
    assert cells[4].startswith(f"{100 * scores['target', 'q_forget'].mean():.1f} [")
    assert cells[5].startswith(f"{100 * scores['unlearn', 'q_forget'].mean():.1f} [") and "[" in cells[6]
    for arguments, said in (([*given[:2]], "needs --results and --out"), (["--tables", "/nowhere"], "does not exist")):
        assert schemes.main(arguments) == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("reason", ["undefined: the interval of …", "diverged: the unlearned run (diverged at step 7)", ""])
def test_a_recovery_that_is_not_there_is_named(reason):
    row = SimpleNamespace(R=float("nan"), R_reason=reason, status="missing")
    assert schemes.share(row, "q") == (reason.split(":")[0] or "missing") and schemes.share(row, "full") == ""


def test_pools_of_checkpoints_along_a_training_are_rows_of_their_own(made):
    config, results, _ = made
    config["sweep"][0] |= {"seed": [0, 1], "max_steps": 10, "checkpoint_at": [5]}
    config = configuration.resolve({**config, "sweep": config["sweep"]})
    for run in grid.plan(config).evaluated():
        begin = 0.9 if run.stage != "unlearn" else 0.5 if run.point else 0.1
        for scheme, gain in (("full", 0), ("q", 0.02), ("q_forget", 0.05)):
            values = np.linspace(0, 0.01, 20) + begin + (gain if run.stage == "unlearn" else 0)
            content = {"metric": "verbmem_f", "kind": "verbmem", "status": "ok", "value": 100 * values.mean(), "n": 20}
            write_json(results / run.path / f"eval/{scheme}/verbmem_f.json", content | {"samples": [{"rougeL": v} for v in values]})
    rows = [row for row in calibration_effect.compare(config, results) if row["seed"] == tables.POOLED]
    found = {(row["checkpoint"], row["scheme"]): row["R"] for row in rows}
    assert found == pytest.approx(
        {("", "q"): 2 / 80, ("", "q_forget"): 5 / 80, ("step5", "q"): 2 / 40, ("step5", "q_forget"): 5 / 40}
    )
