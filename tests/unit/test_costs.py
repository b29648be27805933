"""What every cell took: hours from Snakemake's benchmarks, bytes from the files."""

import json

import pandas as pd

from scripts import costs
from scripts.core.planning import config as configuration
from scripts.core.planning import grid
from tests.workflow.conftest import MICRO


def test_costs_read_benchmarks_and_sizes(tmp_path):
    config = configuration.resolve(json.loads(json.dumps(MICRO)))
    runs = [run.path for run in grid.plan(config).evaluated()]
    for number, run in enumerate(runs[:-1]):
        times, place = tmp_path / "benchmarks" / run, tmp_path / run
        (place / "checkpoint").mkdir(parents=True)
        (place / "checkpoint/model.safetensors").write_bytes(b"x" * (100 + number))
        (place / "run.json").write_text('{"device": "cpu"}\n' if number else '{"dev')
        times.mkdir(parents=True)
        trained = times.with_suffix(".tsv") if number < 2 else times / "unlearn.tsv"
        trained.write_text("s\th:m:s\n7200\t2:00:00\n")
        (times / "evaluate_full.tsv").write_text("s\th:m:s\n3600\t1:00:00\n")
    (tmp_path / runs[0] / "eval/full").mkdir(parents=True)
    (tmp_path / runs[0] / "eval/full/a.json").write_text('{"quantization": {"bytes": 77}}\n')
    (tmp_path / runs[0] / "eval/full/A.json").write_text('{"quanti')  # cut off: of an earlier sweep, say, which evaluates no more
    made = pd.DataFrame(costs.collect(config, tmp_path))
    assert len(made) == len(runs) * 2
    known = made[made.run != runs[-1]]
    assert set(known.train_hours) == {2.0} and set(known.evaluate_hours) == {0.5}
    assert set(known[known.run != runs[0]].device) == {"cpu"}
    assert sorted(known.checkpoint_bytes.unique()) == [100 + i for i in range(len(runs) - 1)]
    assert made[(made.run == runs[0]) & (made.scheme == "full")].model_bytes.tolist() == [77]
    # Job and shares are found whatever the order of the schemes, which a sweep.json does not keep.
    config["schemes"] = dict(reversed(config["schemes"].items()))
    again = pd.DataFrame(costs.collect(config, tmp_path))
    assert set(again[again.run != runs[-1]].evaluate_hours) == {0.5}
    lost = made[made.run == runs[-1]]
    assert set(made[made.run == runs[0]].device) == {""}
    assert lost.train_hours.isna().all() and lost.checkpoint_bytes.isna().all() and set(lost.device) == {""}
