"""Outcomes and manifests of a results folder that were cut off, by a copy that a full disk ended, say.

To Snakemake they are changed inputs: it would remove what was made of them, start that anew, and each job would fail on reading
them. A run that no other starts from is made anew instead; of a corpus, or a model that others start from, a person decides.
"""

from pathlib import Path

from scripts.core.storage import ends


class Damaged(ValueError):
    """One line: which file is damaged, and the command that helps."""


def cut_off(plan, results) -> dict[str, list[str]]:
    """{path of a run: its files, below `results`, that were cut off}; Damaged for a run that others start from."""
    found = {}
    for path, run in plan.runs.items():
        names = ["manifest.json"] if run.stage == "corpus" else ["outcome.json"]
        names += ["mask.json"] if "saliency" in run.spec.get("training", {}) else []
        for name in names:
            file = Path(results) / path / name
            if not file.exists() or ends(file):
                continue
            if run.stage not in ("unlearn", "retrain"):
                raise Damaged(f"{file}: was cut off, and other models start from it; {remedy(run, file)}")
            found.setdefault(run.spec["run"], []).append(f"{path}/{name}")
    return found


def remedy(run, file: Path) -> str:
    """What helps where models depend on a file. Equal specs give equal corpora, so that a manifest can be written again."""
    if run.stage == "corpus":
        return f"write it again: python -m scripts.build_corpus --spec {file.parent}/spec.json --out {file.parent}"
    return f"copy it again, or have this model and those that start from it trained anew: rm {file}"
