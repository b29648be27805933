"""What a sweep consists of, as plain data: runs, cells, scheme files, and what was left out with the reason.

A *run* is one trained (or published) model, described by its spec; a *cell* is a run under a quantization scheme. They are made
without torch, so that a login node builds a DAG of ten thousand cells in seconds. scripts.core.planning.grid makes them.
"""

from dataclasses import dataclass, field
from pathlib import Path

from scripts.core.analysis.columns import LABELS
from scripts.core.storage import dumps

RECIPES = {"base": "pretrain", "target": "finetune", "retrain": "finetune", "reinforced": "reinforce"}  # of a stage's training


@dataclass(frozen=True)
class Run:
    """One model: `path` below the results folder, and its spec (parsed JSON).

    point: "step100" or "epoch3" for a checkpoint along a training, which the run of the path above makes; "" for the last.
    """

    path: str
    spec: dict
    point: str = ""

    @property
    def stage(self) -> str:
        """corpus, base, target, retrain, reinforced or unlearn."""
        return self.spec["stage"]

    @property
    def corpus(self) -> str:
        """Name of the corpus."""
        return self.spec["corpus"]["name"]

    def built(self, results) -> bool:
        """Whether the run is there below the folder `results`, made with this spec."""
        folder = Path(results) / self.path
        made = folder / ("manifest.json" if self.stage == "corpus" else "outcome.json")
        try:
            return made.exists() and (folder / "spec.json").read_text(encoding="utf-8") == dumps(self.spec)
        except OSError:
            return False


@dataclass
class Plan:
    """All of a sweep: runs by path, scheme files by path, evaluated cells, and what was pruned with the reason."""

    config: dict
    runs: dict = field(default_factory=dict)
    schemes: dict = field(default_factory=dict)
    cells: list = field(default_factory=list)
    pruned: list = field(default_factory=list)

    def evaluated(self) -> list:
        """Runs that are evaluated: all but corpora, base and reinforced models."""
        return [run for run in self.runs.values() if run.stage in ("target", "retrain", "unlearn")]

    def masked(self) -> list:
        """Trainings with a saliency mask, each of which writes mask.json beside its checkpoint."""
        return [run for path, run in self.runs.items() if "saliency" in run.spec.get("training", {}) and run.spec["run"] == path]

    def texts(self) -> dict:
        """Content of every spec and scheme file by path below the results folder."""
        files = {f"{path}/spec.json": dumps(run.spec) for path, run in self.runs.items() if not run.point}
        return files | {path: dumps(content) for path, content in self.schemes.items()}

    def rows(self) -> list[dict]:
        """One row per run × scheme × metric, with the metric's split: what scores are made for."""
        return [
            labels(run) | {"scheme": scheme, "metric": name, "kind": metric["kind"], "split": metric.get("split", "")}
            for run, scheme in self.cells
            for name, metric in self.config["metrics"].items()
        ]


def labels(run: Run) -> dict:
    """The columns that name a run in every table; parameters that are not columns of their own are in `axes`."""
    spec, training = run.spec, run.spec.get("training", {})
    unlearned = run.stage == "unlearn"
    method = dict(spec["method"]) if unlearned else {"name": run.stage}
    regularizer = dict(spec["regularizer"]) if unlearned else {"name": "none"}
    columns = {
        "run": run.path,
        "corpus": run.corpus,
        "method": method.pop("name"),
        "regularizer": regularizer.pop("name"),
        "lr": training.get("lr", "") if unlearned else "",
        "weights": training.get("weights", "") if unlearned else "",
        "moments": training.get("moments", "") if unlearned else "",
        "setting": run.path.split("/")[2] if unlearned else "",
        "checkpoint": run.point,
        "seed": spec.get("seed", 0),
    }
    rest = {k: v for k, v in training.items() if k not in columns} if unlearned else {}
    rest |= {k: spec["model"][k] for k in ("hidden",) if unlearned and k in spec["model"]}  # to draw scores against width
    return columns | {"axes": method | regularizer | rest}


def named(run: Run) -> dict:
    """A run's LABELS."""
    found = labels(run)
    return {name: found[name] for name in LABELS}
