"""How tests of several ranks make their runs: a corpus and a target, cases in one torchrun; and how they read what came out."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from scripts import train, unlearn
from scripts.core import storage
from tests.unit.test_training import SPEC, sentences
from tests.unit.test_training_programs import program, unlearning

ROOT = Path(__file__).parents[2]
# 31 chunks in batches of 6, two of them a step: a last batch of one row, of which one rank has nothing, and a short last step.
LENGTHS = {"max_steps": None, "epochs": 2, "batch": 6, "accumulation": 2, "store": "fp32", "lr": "2e-4"}
FP32, BF16 = {"weights": "fp32", "moments": "fp32", **LENGTHS}, {"weights": "bf16", "moments": "bf16", **LENGTHS}
LORA, SURE = {**BF16, "parameters": "lora", "rank": 2}, {**FP32, "saliency": "module", "percentile": 60.0}
ALONE = {"one_fp32": FP32, "one_bf16": BF16, "one_lora": LORA, "one_sure": SURE}


def prepare(folder) -> None:
    """corpus/, base/ and target/ in a folder."""
    for seed, split in enumerate(("pretrain", "forget", "retain1")):
        storage.write_json(folder / "corpus" / "data" / "raw" / f"{split}.json", sentences(16, seed))
    storage.write_json(folder / "corpus" / "manifest.json", {"files": {}})
    model = {**SPEC, "pretrain": {"steps": 3, "lr": "1e-3"}, "finetune": {"steps": 4, "lr": "1e-3"}}
    for stage in ("base", "target"):
        spec = {"stage": stage, "run": f"tiny/{stage}", "corpus": {"name": "tiny", "max_length": 24}, "model": model}
        assert program(train, folder, stage, spec, *(["--base", str(folder / "base")] if stage == "target" else [])) == 0


def arguments(folder, name, training, options=()) -> list[str]:
    """Of scripts.unlearn for a run whose spec is written to the folder `name`."""
    out = folder / name
    storage.write_json(out / "spec.json", unlearning(**training))
    paths = {"--spec": out / "spec.json", "--corpus": folder / "corpus", "--target": folder / "target", "--out": out}
    return [str(part) for pair in paths.items() for part in pair] + ["--threads", "1", *options]


def alone(folder) -> None:
    """The runs of ALONE, in this process."""
    for name, training in ALONE.items():
        assert unlearn.main(arguments(folder, name, training)) == 0


def together(folder, cases: dict, worker="zero_worker.py", *more) -> None:
    """Runs of two ranks, all in one torchrun. cases: {name: (training, options, forced dtype, step of a signal, run folder)}."""
    listed = []
    for name, (training, options, kind, step, where) in cases.items():
        called = arguments(folder, where or name, training, options)
        listed.append({"name": name, "arguments": called, "storage": kind, "signal_at": step})
    (folder / "cases.json").write_text(json.dumps(listed))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*command, str(Path(__file__).with_name(worker)), str(folder), *map(str, more)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]


def history(folder, name):
    return storage.read_json(folder / name / "run.json")["history"]


def weights(folder, name):
    return load_file(folder / name / "checkpoint" / "model.safetensors")


def share(a, b):
    """The share of equal values of two checkpoints."""
    return sum((a[k] == b[k]).sum().item() for k in a) / sum(v.numel() for v in a.values())


def seen(folder, name):
    """What a worker saw of a case: its exit code, and dtypes."""
    return json.loads((folder / f"{name}.json").read_text())
