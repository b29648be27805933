"""The table of masks holds what the runs' mask.json say, and says which are not there."""

import copy
import json

from scripts import masks
from scripts.core import storage
from scripts.core.analysis import columns, tables
from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from tests.unit.test_config import MICRO

WEIGHTS = [("model.embed_tokens.weight", 2e-9, 0.0), ("model.layers.0.mlp.up_proj.weight", 0.25, 1.0)]
WEIGHTS += [("model.layers.11.self_attn.q_proj.bias", 0.5, 0.75), ("lm_head.weight", 0.0, 0.0)]


def sweep(tmp_path) -> dict:
    """A resolved configuration of two masked runs and a plain one; the first has its mask on disk."""
    config = copy.deepcopy(MICRO)
    block = {"corpus": "people", "method": "npo", "regularizer": "gdr"}
    config["sweep"] = [block | {"saliency": ["none", "module"], "beta": 0.02}, block | {"saliency": "row-step", "percentile": 95}]
    resolved = configuration.resolve(config)
    run = grid.plan(resolved).masked()[0]
    entries = [{"name": name, "norm": norm, "trained": share} for name, norm, share in WEIGHTS]
    mask = {"kind": "module", "percentile": 90.0, "threshold": 0.25, "weights": entries}
    storage.write_json(tmp_path / run.path / "mask.json", mask)
    return resolved


def test_the_table_holds_every_weight_and_what_is_missing(tmp_path):
    storage.write_json(tmp_path / "sweep.json", sweep(tmp_path))
    done = masks.main(["--sweep", str(tmp_path / "sweep.json"), "--results", str(tmp_path), "--out", str(tmp_path / "masks.csv")])
    assert done == 0
    table = tables.read(tmp_path, ["masks"])["masks"]
    assert list(table.columns) == columns.MASKS and len(table) == len(WEIGHTS) + 1
    present = table[table.status == "ok"]
    assert list(zip(present.weight, present.norm, present.trained, strict=True)) == WEIGHTS  # 2e-9 is not rounded to 0
    assert list(present.layer.fillna(-1)) == [-1, 0, 11, -1]
    assert list(present.module) == ["embed_tokens", "mlp.up_proj", "self_attn.q_proj.bias", "lm_head"]
    assert set(present.objective) == {"npo beta=0.02"} and set(present.saliency) == {"module"}
    (missing,) = table[table.status == "missing"].itertuples()
    assert (missing.saliency, missing.percentile, missing.objective) == ("row-step", 95.0, "npo")
    assert missing.weight == "" and missing.norm != missing.norm


def test_a_sweep_without_masks_has_an_empty_table(tmp_path):
    assert masks.table(grid.plan(configuration.resolve(copy.deepcopy(MICRO))), tmp_path).empty


def test_a_broken_mask_is_one_line(tmp_path, capsys):
    config = sweep(tmp_path)
    path = tmp_path / grid.plan(config).masked()[0].path / "mask.json"
    path.write_text("{")
    (tmp_path / "sweep.json").write_text(json.dumps(config))
    where = ["--sweep", str(tmp_path / "sweep.json"), "--results", str(tmp_path), "--out", str(tmp_path / "masks.csv")]
    assert masks.main(where) == 2
    said = capsys.readouterr().err
    assert "mask.json is not readable" in said and said.count("\n") == 1
