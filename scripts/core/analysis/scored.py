"""A cell's score as its metric file has it: the value, its bootstrap replicates, and the row that says what it is.

A cell without a score keeps its row: the value is empty, and `status` and `reason` say why.
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scripts.core.analysis import columns, statistics
from scripts.core.storage import read_json

SCORE_KEYS = ("score", "rougeL", "acc", "nll", "entropy")  # where a sample has its score; else under the name of its metric's kind
BAR = re.compile(r"\d%\|")  # of a progress bar, which ends after the error that ended its program
PRIVLEAK_SCORE = "Min-40%"


@dataclass
class Score:
    """A cell's row of the table, and what intervals and ratios are formed of; None where there is no such thing.

    value and its replicates, (resamples,): in the unit in which scores are averaged and compared, 0…1, or nats per token of a
    perplexity. units: those that were drawn (people, articles; of PrivLeak a pair of lists), None where samples were drawn. texts:
    PrivLeak's scores of (forget, holdout) texts. seeds: the scores of which a pooled one is the mean.
    """

    row: dict
    value: float | None = None
    replicates: np.ndarray | None = None
    units: list | tuple | None = None
    texts: tuple | None = None
    seeds: list = field(default_factory=list)


def load(cell: dict, results: Path) -> Score:
    """The score of a planned cell (run, scheme, metric, kind and what else names it), from its metric file below `results`."""
    row = {name: cell.get(name, "") for name in columns.CELL[:-1]} | {"step": reached(results / cell["run"])}
    row |= {axis_column(name): flat(value) for name, value in (cell.get("axes") or {}).items()}
    row |= dict.fromkeys(("value", "low", "high", "n")) | {
        "interval": "",
        "seeds": 1,
        "split": cell.get("split") or split(cell, {}),
    }
    path = results / cell["run"] / "eval" / cell["scheme"] / f"{cell['metric']}.json"
    if not path.exists():
        reason = unfinished(results, cell["run"], cell["scheme"]) or f"no {path.relative_to(results)}"
        return Score(row | state("missing", reason))
    try:
        content = read_json(path)
    except ValueError as error:
        return Score(row | state("missing", str(error)))
    if not isinstance(content, dict):
        return Score(row | state("missing", f"{path} is no metric file"))
    row |= {"bits_per_weight": content.get("bits_per_weight"), "split": cell.get("split") or split(cell, content)}
    if content.get("status", "ok") != "ok":
        return Score(row | state(content["status"], content.get("reason") or divergence(results / cell["run"])))
    return of_passages(row, content) if cell["kind"] == "privleak" else of_samples(row, content)


def of_passages(row: dict, content: dict) -> Score:
    """PrivLeak as far as one file tells it: the texts' scores; its value takes those of the retrain model, too."""
    texts = passages(content)
    if texts is None:
        return Score(row | state("not finite", f"no finite {PRIVLEAK_SCORE} scores of forget and holdout texts"))
    units = passage_units(content, texts)
    row |= state("ok", "") | {"n": len(texts[0])} | ({"units": len(set(units[0]))} if units else {})
    return Score(row, texts=texts, units=units)


def of_samples(row: dict, content: dict) -> Score:
    """A score that is the mean of its samples, with its replicates; without these where the file's samples give another mean."""
    value = content.get("value")
    if not isinstance(value, int | float) or not math.isfinite(value):
        return Score(row | state("not finite", f"value is {value}"))
    row |= state("ok", "") | {"value": value, "n": content.get("n")}
    score = Score(row, math.log(value) if row["kind"] == "perplexity" else value / 100)
    scores, weights, units = per_sample(content)
    if scores is None or not np.isclose(shown(row, np.average(scores, weights=weights)), value, atol=1e-6):
        row["reason"] = "no interval: the value is not the mean of its samples"
        return score
    row["n"] = len(content["samples"])
    drawn = list(dict.fromkeys(units)) if units else None
    row |= {"units": len(drawn)} if drawn else {}
    if len(drawn or scores) < 2:
        row["reason"] = f"no interval: one {'unit' if drawn else 'sample'}"
        return score
    score.replicates, score.units = statistics.mean_replicates(scores, weights, units), drawn
    return score


def shown(row: dict, mean: float) -> float:
    """A mean as the tables show it: ×100, or the perplexity of nats per token."""
    return float(np.exp(mean)) if row["kind"] == "perplexity" else 100 * float(mean)


def reached(run: Path) -> int | None:
    """The optimiser step of a run's checkpoint, from its outcome."""
    path = run / "outcome.json"
    return read_json(path).get("step") if path.exists() else None


def unfinished(results: Path, run: str, scheme: str) -> str | None:
    """How the log of a job that left no outcome or scores ends (of a failed one: with its error); None where none has begun."""
    job = f"evaluate_{scheme}" if (results / run / "outcome.json").exists() else "unlearn"
    log = results / "logs" / run / f"{job}.log"
    lines = log.read_text(errors="replace").replace("\r", "\n").split("\n") if log.exists() else []
    lines = [line.strip() for line in lines if line.strip()]
    last = ([line for line in lines if not BAR.search(line)] or lines or [None])[-1]
    return f"{job} did not finish; its log ends: {last[:200]}" if last else None


def state(status: str, reason: str) -> dict:
    """The columns that say whether a cell has a value."""
    return {"status": status, "reason": reason}


def axis_column(name: str) -> str:
    """Column of an axis; one that is called like a column of the table gets a prefix."""
    return f"axis_{name}" if name in columns.SCORES else name


def flat(value):
    """An axis value as a table can hold it."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def split(cell: dict, content: dict) -> str:
    """forget or retain: as the metric file says, else by the metric's name (…_f, …_r)."""
    said = content.get("split") or (content.get("settings") or {}).get("split")
    return said or {"f": "forget", "r": "retain"}.get(cell["metric"].rsplit("_", 1)[-1], "")


def divergence(run: Path) -> str:
    """Where a run diverged, from its outcome."""
    step = reached(run)
    return f"diverged at step {step}" if step is not None else "diverged"


def per_sample(content: dict) -> tuple[np.ndarray | None, np.ndarray | None, list | None]:
    """(scores, weights, units), (n,) each: scores of samples in 0…1 or nats, None when samples carry no finite score; their
    weights, None where equal; their units, None unless all have one. Windows of text come as their parts, one for each unit.
    """
    samples, none = content.get("samples"), (None, None, None)
    if not isinstance(samples, list) or not samples or not isinstance(samples[0], dict):
        return none
    if all(isinstance(sample, dict) and sample.get("parts") for sample in samples):
        samples = [part for sample in samples for part in sample["parts"]]
    name = next((name for name in (*SCORE_KEYS, content.get("kind")) if name in samples[0]), None)
    try:
        scores = np.array([sample[name] for sample in samples], dtype=float)
        weights = np.array([sample["tokens"] for sample in samples], dtype=float) if name == "nll" else None
        units = [sample.get("unit") for sample in samples]
    except (AttributeError, KeyError, TypeError, ValueError):
        return none
    return (scores, weights, None if None in units else units) if np.isfinite(scores).all() else none


def passages(content: dict) -> tuple[np.ndarray, np.ndarray] | None:
    """Per-text Min-40 % scores (forget, holdout) of a PrivLeak file, or None where they are absent, empty or not finite."""
    for place in (content.get("samples"), content.get("scores")):  # ours, and MUSE's own
        try:
            pair = [np.array(place[part][PRIVLEAK_SCORE], dtype=float) for part in ("forget", "holdout")]
        except (KeyError, TypeError, ValueError):
            continue
        if all(len(part) and np.isfinite(part).all() for part in pair):
            return pair[0], pair[1]
    return None


def passage_units(content: dict, texts: tuple) -> tuple[list, list] | None:
    """Units of the (forget, holdout) texts of a PrivLeak file, or None unless all have one."""
    samples = content.get("samples") or {}
    units = tuple((samples.get(part) or {}).get("unit") or [] for part in ("forget", "holdout"))
    return units if [len(part) for part in units] == [len(part) for part in texts] else None


def fill_interval(score: Score) -> None:
    """Write a score's interval into its row, and what was drawn for it."""
    if score.replicates is not None:
        low, high = (shown(score.row, bound) for bound in statistics.interval(score.replicates))
        drawn = "seeds, then " * (len(score.seeds) > 1) + ("units" if score.units else "samples")
        score.row |= {"low": low, "high": high, "interval": drawn}
