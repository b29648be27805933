"""The presets resolve over the configurations that they are laid over, and say what they claim."""

from pathlib import Path

import pytest
import yaml

from scripts import calibration_effect, passages
from scripts.core import registry
from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from scripts.core.planning.plan import Plan

ROOT = Path(__file__).parents[2]
BELOW = {"news": "config.yaml", "books": "config.yaml", "sure": "config.yaml", "controls": "profiles/demo/sweep.yaml"}
STUDIES = ("widths", "schemes", "calibration", "cure", "steps", "targets", "passages", "rates")
BELOW |= dict.fromkeys(STUDIES, "profiles/demo/sweep.yaml")
BELOW["seven_b"] = "config.yaml"


def laid_over(*names: str, below: str | None = None) -> Plan:
    """The plan of presets over a configuration; like Snakemake, top keys that are lists or text are replaced."""
    config = yaml.safe_load((ROOT / (below or BELOW[names[0]])).read_text())
    for name in names:
        preset = yaml.safe_load((ROOT / f"profiles/presets/{name}.yaml").read_text())
        for key, value in preset.items():  # entries of corpora and schemes are new names, so that merging is one level deep
            config[key] = config[key] | value if isinstance(value, dict) else value
    return grid.plan(configuration.resolve(config))


def unlearned(plan) -> list[dict]:
    return [run.spec for run in plan.runs.values() if run.stage == "unlearn"]


def test_every_preset_is_known_here():
    assert {path.stem for path in (ROOT / "profiles/presets").glob("*.yaml")} == set(BELOW)


@pytest.mark.parametrize("name", ["news", "books"])
def test_the_papers_cells_are_those_of_the_papers_sweep(name):
    """The presets share their runs with config.yaml: none is trained twice."""
    paper = grid.plan(configuration.resolve(yaml.safe_load((ROOT / "config.yaml").read_text()))).runs
    runs = {path: run for path, run in laid_over(name).runs.items() if run.stage == "unlearn"}
    assert len(runs) == 6 and all(paper[path].spec == run.spec for path, run in runs.items())


def test_sure_has_the_papers_settings():
    specs = unlearned(laid_over("sure"))
    masked = {s["method"]["name"]: s for s in specs if "saliency" in s["training"]}
    assert len(specs) == 4 and set(masked) == {"npo", "ga"}
    assert all(s["training"]["lr"] == "1e-4" and s["training"]["saliency"] == "module" for s in masked.values())
    assert {name: (s["training"]["percentile"], s["regularizer"]["alpha"]) for name, s in masked.items()} == {
        "npo": (90.0, 20.0),
        "ga": (99.0, 400.0),
    }


def test_rates_differ_in_nothing_but_the_rate_and_the_steps():
    plan = laid_over("rates")
    demo = plan.config["corpora"]["people"]
    for name in ("people2", "people3"):
        other = plan.config["corpora"][name]
        assert {**other, "model": {**other["model"], "seed": 0}} == {**demo, "model": {**demo["model"], "seed": 0}}
    specs = unlearned(plan)
    rates = sorted({float(s["training"]["lr"]) for s in specs if s["training"]["weights"] == "bf16"})
    assert len(rates) == 13 and len(specs) == 3 * 15 * 2  # each with a checkpoint half-way
    for s in specs:
        for key in ("lr", "max_steps", "checkpoint_at"):
            s["training"].pop(key, None)
    one = [{k: v for k, v in s.items() if k not in ("run", "corpus", "model")} for s in specs]
    assert len({str(s) for s in one}) == 2  # weights in bf16, and in fp32


def test_targets_are_the_demos_but_for_their_seed():
    plan = laid_over("targets")
    demo = plan.config["corpora"].pop("people")
    for number in (1, 2, 3):
        entry = plan.config["corpora"].pop(f"seed{number}")
        assert entry["model"].pop("seed") == number
        assert entry == {**demo, "model": {key: value for key, value in demo["model"].items() if key != "seed"}}
    assert not plan.config["corpora"]
    along = [run for run in plan.runs.values() if run.stage == "unlearn" and run.point]
    assert len(unlearned(plan)) == 9 + len(along) and len(along) == 27


def test_passages_are_unlearned_from_three_targets_under_the_demos_schemes():
    plan = laid_over("passages")
    targets = {name: plan.config["corpora"][name] for name in ("news", "news2", "news3")}
    assert [entry["model"].pop("seed", 0) for entry in targets.values()] == [0, 1, 2]
    assert targets["news"] == targets["news2"] == targets["news3"]
    # Passages have no questions: scripts/passages.py writes these tasks, and raw/retain1 for retain text.
    assert set(targets["news"]["splits"]) == {*passages.SPLITS, "retain1", "pretrain"} - {"retain"}
    assert not any(metric["kind"] == "knowmem" for metric in plan.config["metrics"].values())
    cells = [(s["method"]["name"], s["training"]["weights"], s["training"]["lr"]) for s in unlearned(plan)]
    assert len(set(cells)) == 6 and {cells.count(cell) for cell in cells} == {6, 9, 12}  # three targets, 2 to 4 checkpoints each


def test_controls_vary_one_ingredient_at_a_time():
    """Each cell differs from its centre in one ingredient (steps follow it), but for SURE's pair; three seeds each."""
    specs = unlearned(laid_over("controls"))
    assert len(specs) == 72 and {s["seed"] for s in specs} == {0, 1, 2}
    ignored = {"max_steps", "percentile", "sure_double"}
    for method, regularizer in (("npo", "klr"), ("ga", "gdr")):
        cells = [s for s in specs if s["method"]["name"] == method and s["seed"] == 0]
        assert len(cells) == 12 and all(s["regularizer"]["name"] == regularizer for s in cells)
        read = [{"saliency": "none", **s["training"], "alpha": s["regularizer"]["alpha"]} for s in cells]
        varied = [sorted(k for k in one if k not in ignored and one[k] != read[0][k]) for one in read[1:]]
        pairs = [["lr", "saliency"], ["moments", "weights"]]
        assert sorted(varied) == sorted([["moments"], ["saliency"], ["alpha"], *[["weights"]] * 2, *[["lr"]] * 4, *pairs])


def test_the_control_grid_runs_unchanged_on_seven_billion_parameters():
    small, large = (unlearned(plan) for plan in (laid_over("controls"), laid_over("seven_b", "controls")))
    assert len(large) == len(small) == 72 and {s["model"]["billions"] for s in large} == {6.7}
    assert {s["training"]["lr"] for s in large} - {s["training"]["lr"] for s in small} == {"1e-5"}
    ingredients = ("weights", "moments", "max_steps", "saliency")
    read = [[(s["method"], s["seed"], *(s["training"].get(k) for k in ingredients)) for s in specs] for specs in (small, large)]
    assert read[0] == read[1]


def test_widths_differ_in_size_and_seed_and_learning_rates_follow_the_spread_of_the_weights():
    specs = unlearned(laid_over("widths"))
    assert {s["model"]["hidden"] for s in specs} == {128, 256, 512, 1024} and {s["model"]["layers"] for s in specs} == {2}
    assert len({str(s["method"]) + str(s["regularizer"]) for s in specs}) == 1
    texts = [{k: v for k, v in s["corpus"].items() if k != "name"} for s in specs]
    assert all(text == texts[0] for text in texts)
    for weights, share in (("bf16", 6.4e-4), ("fp32", 4.8e-4)):
        cells = [s for s in specs if s["training"]["weights"] == weights]
        shares = [float(s["training"]["lr"]) * s["model"]["hidden"] ** 0.5 for s in cells]
        assert len(cells) > 8 and shares == pytest.approx([share] * len(cells), rel=0.02)  # of the first weights' σ


def test_schemes_holds_every_kind_that_runs_on_a_cpu():
    plan = laid_over("schemes")
    kinds = {scheme["kind"] for scheme in plan.config["schemes"].values()}
    assert kinds == {name for name in registry.names("quantizers") if "cpu" in registry.constants("quantizers", name)["HARDWARE"]}
    (run,) = [run for run in plan.evaluated() if run.stage == "unlearn"]
    demo = grid.plan(configuration.resolve(yaml.safe_load((ROOT / BELOW["schemes"]).read_text())))
    assert demo.runs[run.path].spec == run.spec, "the demo's own run"
    assert [scheme for cell, scheme in plan.cells if cell.stage == "retrain"] == ["full"]
    configuration.check_plugins(plan.config)


def test_calibration_differs_in_the_set_alone():
    plan = laid_over("calibration")
    groups = calibration_effect.families(plan.config["schemes"])
    assert [list(sets) for sets in groups] == [["generic", "forget", "retain"]] * 4
    controls = laid_over("controls").runs
    assert all(controls[run.path].spec == run.spec for run in plan.evaluated()), "the control grid's own runs"
    configuration.check_plugins(plan.config)


def test_cure_has_the_control_grids_own_runs_under_more_schemes():
    plan, controls = laid_over("cure"), laid_over("controls")
    assert all(controls.runs[run.path].spec == run.spec for run in plan.evaluated())
    assert set(plan.config["schemes"]) > set(controls.config["schemes"])
    specs = unlearned(plan)
    stored = [(s["training"]["weights"], s["training"]["moments"]) for s in specs if s["seed"] == 0]
    assert stored == [("bf16", "bf16"), ("bf16_stochastic", "bf16"), ("fp32", "fp32")] * 2 and len(specs) == 18
    configuration.check_plugins(plan.config)


def test_steps_are_those_of_the_control_grids_centres():
    """Weights in fp32 as long as the centres in bf16; seeds and everything but lr and precision are the centres' own."""
    centres = [s for s in unlearned(laid_over("controls")) if s["training"] == centre(s) and "saliency" not in s["training"]]
    found = unlearned(laid_over("steps"))

    def told(spec):
        return spec["method"], spec["regularizer"], spec["seed"], spec["training"]["max_steps"]

    assert len(found) == len(centres) == 6 and all(told(spec) in list(map(told, centres)) for spec in found)
    assert {(s["training"]["weights"], s["training"]["moments"]) for s in found} == {("fp32", "fp32")}


def centre(spec: dict) -> dict:
    """The training of a spec of the control grid, as its centre has it."""
    steps = {"npo": 500, "ga": 450}[spec["method"]["name"]]
    return spec["training"] | {"lr": "4e-5", "weights": "bf16", "moments": "bf16", "max_steps": steps}
