"""Tidy tables from metric files: scores with intervals, and what quantization gives back.

Every cell of the sweep gets a row whether it has a score or not: a diverged or missing cell has an empty value and a
reason, never 0.

K_s = M_s(unlearned) / M_s(target): the share of the target's knowledge that the unlearned model shows under scheme s.
R_s = (M_s(unlearned) − M_full(unlearned)) / (M_s(target) − M_full(unlearned)): the share of what was forgotten that
  scheme s gives back.
Of a perplexity M is −NLL, the log-likelihood per token, and there is R alone: a log-likelihood has no zero for K.
PrivLeak = (AUC(unlearned) − AUC(retrain)) / AUC(retrain), AUC of Min-40 % between forget and holdout texts; retrain
  at full precision.
Seeds are pooled in rows of their own (seed "all"): R and K there are ratios of means over seeds, a perplexity is that of the
mean NLL.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from scripts.core import selection, statistics, tables
from scripts.core.storage import read_json

SCORE_KEYS = ("score", "rougeL", "acc", "nll", "entropy")
RECOVERED = ("verbmem", "knowmem", "perplexity")
PRIVLEAK_SCORE = "Min-40%"
ONE, MANY = "samples", "seeds, then samples"


def load(cell: dict, results: Path) -> dict:
    """One cell's score: {"row": table row, "value", "replicates": (resamples,), "texts"}, None where there is none.

    `value` and its replicates are in the unit in which scores are averaged and compared: 0…1, or nats per token of a perplexity.
    """
    row = {name: cell.get(name, "") for name in tables.CELL[:-1]} | {"step": reached(results / cell["run"])}
    row |= {axis_column(name): flat(value) for name, value in (cell.get("axes") or {}).items()}
    row |= {
        "split": cell.get("split") or split(cell, {}),
        "value": None,
        "low": None,
        "high": None,
        "n": None,
        "interval": "",
        "seeds": 1,
    }
    found = {"row": row, "value": None, "replicates": None, "texts": None}
    path = results / cell["run"] / "eval" / cell["scheme"] / f"{cell['metric']}.json"
    if not path.exists():
        return found | {
            "row": row | state("missing", unfinished(results, cell["run"], cell["scheme"]) or f"no {path.relative_to(results)}")
        }
    try:
        content = read_json(path)
    except ValueError as error:
        return found | {"row": row | state("missing", str(error))}
    row |= {"bits_per_weight": recorded(content, "bits_per_weight"), "split": cell.get("split") or split(cell, content)}
    if content.get("status", "ok") != "ok":
        return found | {"row": row | state(content["status"], content.get("reason") or divergence(results / cell["run"]))}
    value = content.get("value")
    if cell["kind"] == "privleak":
        texts = passages(content)
        if texts is None:
            return found | {"row": row | state("not finite", f"no finite {PRIVLEAK_SCORE} scores of forget and holdout texts")}
        return found | {"row": row | state("ok", "") | {"n": len(texts[0])}, "texts": texts}
    if not isinstance(value, int | float) or not math.isfinite(value):
        return found | {"row": row | state("not finite", f"value is {value}")}
    row |= state("ok", "") | {"value": value, "n": content.get("n")}
    found["value"] = math.log(value) if cell["kind"] == "perplexity" else value / 100
    scores, weights = per_sample(content)
    if scores is None or not np.isclose(shown(row, np.average(scores, weights=weights)), value, atol=1e-6):
        row["reason"] = "no interval: the value is not the mean of its samples"
        return found
    row["n"] = len(scores)
    if len(scores) < 2:
        row["reason"] = "no interval: one sample"
        return found
    return found | {"replicates": statistics.mean_replicates(scores, weights)}


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
    last = next((line.strip() for line in reversed(lines) if line.strip()), None)
    return f"{job} did not finish; its log ends: {last[:200]}" if last else None


def state(status: str, reason: str) -> dict:
    """The columns that say whether a cell has a value."""
    return {"status": status, "reason": reason}


def axis_column(name: str) -> str:
    """Column of an axis; one that is called like a column of the table gets a prefix."""
    return f"axis_{name}" if name in tables.SCORES else name


def flat(value):
    """An axis value as a table can hold it."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def recorded(content: dict, name: str):
    """A number that an evaluation recorded, at the top, in `provenance` or one level below; None if it did not."""
    places = [content, content.get("provenance") or {}]
    places += [part for part in places[1].values() if isinstance(part, dict)]
    return next((place[name] for place in places if isinstance(place.get(name), int | float)), None)


def split(cell: dict, content: dict) -> str:
    """forget or retain: as the metric file says, else by the metric's name (…_f, …_r)."""
    said = content.get("split") or (content.get("settings") or {}).get("split")
    return said or {"f": "forget", "r": "retain"}.get(cell["metric"].rsplit("_", 1)[-1], "")


def divergence(run: Path) -> str:
    """Where a run diverged, from its outcome."""
    path = run / "outcome.json"
    step = read_json(path).get("step") if path.exists() else None
    return f"diverged at step {step}" if step is not None else "diverged"


def per_sample(content: dict) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(n,) scores of samples, in 0…1 or nats, None when samples carry no finite score; and their weights, None where equal."""
    samples = content.get("samples")
    if not isinstance(samples, list) or not samples or not isinstance(samples[0], dict):
        return None, None
    name = next((name for name in SCORE_KEYS if name in samples[0]), None)
    try:
        scores = np.array([sample[name] for sample in samples], dtype=float)
        weights = np.array([sample["tokens"] for sample in samples], dtype=float) if name == "nll" else None
    except (KeyError, TypeError, ValueError):
        return None, None
    return (scores, weights) if np.isfinite(scores).all() else (None, None)


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


def add_privleak(loaded: list[dict]) -> None:
    """Fill in PrivLeak, in place: it needs the retrain run's own file (same corpus, full precision, same texts)."""
    reference = {
        (cell["row"]["corpus"], cell["row"]["metric"]): cell
        for cell in loaded
        if cell["row"]["method"] == "retrain" and cell["row"]["scheme"] == "full"
    }
    cached = {
        key: (statistics.auc(*cell["texts"]), statistics.auc_replicates(*cell["texts"]))
        for key, cell in reference.items()
        if cell["texts"]
    }
    for cell in loaded:
        row = cell["row"]
        if row["kind"] != "privleak" or not cell["texts"]:
            continue
        key = row["corpus"], row["metric"]
        if key not in cached:
            retrain = reference.get(key)
            row |= state(
                "missing",
                "PrivLeak needs the retrain run at full precision: " + (retrain["row"]["reason"] if retrain else "not there"),
            )
            continue
        ours, theirs = cell["texts"], reference[key]["texts"]
        if [len(part) for part in ours] != [len(part) for part in theirs]:
            row |= state("missing", "PrivLeak: the retrain run was scored on other texts")
            continue
        bottom, bottom_replicates = cached[key]
        top, top_replicates = statistics.auc(*ours), statistics.auc_replicates(*ours)
        value, low, high, reason = statistics.ratio(top, bottom, top_replicates, bottom_replicates, "AUC(retrain)")
        if value is None:
            row |= state("not finite", reason)
            continue
        usable = np.where(bottom_replicates > statistics.EPS, bottom_replicates, np.nan)
        cell |= {"value": value - 1, "replicates": top_replicates / usable - 1}
        row["value"] = 100 * cell["value"]


def fill_interval(cell: dict, name: str) -> None:
    """Write a cell's interval into its row."""
    if cell["replicates"] is not None:
        low, high = (shown(cell["row"], bound) for bound in statistics.interval(cell["replicates"]))
        cell["row"] |= {"low": low, "high": high, "interval": name}


def pooled(loaded: list[dict]) -> list[dict]:
    """One more cell per group of several seeds: the mean over those that have a value; the reason names those that have none."""
    groups = defaultdict(list)
    for cell in loaded:
        groups[tuple(cell["row"][name] for name in (*tables.GROUP, "scheme", "metric"))].append(cell)
    return [merge(group) for group in groups.values() if len(group) > 1]


def merge(group: list[dict]) -> dict:
    """The pooled cell of a group of seeds."""
    usable = [cell for cell in group if cell["value"] is not None]
    absent = [f"seed {cell['row']['seed']}: {cell['row']['reason']}" for cell in group if cell["value"] is None]
    first = group[0]["row"]
    row = first | {"seed": tables.POOLED, "run": selection.base(first).rsplit("/", 1)[0] + "/all"}
    row["step"] = first["step"] if len({cell["row"]["step"] for cell in group}) == 1 else None
    row |= {"value": None, "low": None, "high": None, "n": None, "interval": "", "reason": "; ".join(absent)}
    row["seeds"] = len(usable)
    row["split"] = next((cell["row"]["split"] for cell in group if cell["row"]["split"]), "")
    cell = {"row": row, "value": None, "replicates": None, "texts": None, "seeds": usable}
    if not usable:
        states = {cell["row"]["status"] for cell in group}
        row["status"] = states.pop() if len(states) == 1 else "missing"
        return cell
    bits = [cell["row"].get("bits_per_weight") for cell in usable]
    cell["value"] = float(np.mean([cell["value"] for cell in usable]))
    row |= {"status": "ok", "value": shown(row, cell["value"]), "n": usable[0]["row"]["n"]}
    row["bits_per_weight"] = float(np.mean(bits)) if all(isinstance(b, int | float) for b in bits) else None
    if len({cell["row"]["n"] for cell in usable}) > 1:
        row["reason"] = "; ".join([*absent, "no interval: seeds have different numbers of samples"])
    elif all(cell["replicates"] is not None for cell in usable):
        many = len(usable) > 1
        cell["replicates"] = statistics.pool([c["replicates"] for c in usable]) if many else usable[0]["replicates"]
        fill_interval(cell, MANY if many else ONE)
    return cell


def recovery(loaded: list[dict]) -> list[dict]:
    """Rows of K and R for every unlearned run (and pool of seeds), scheme, and metric in RECOVERED on the forget set."""
    return [recovery_row(*parts) for parts in matched(loaded)]


def matched(loaded: list[dict]):
    """(cell, its full precision, the target under its scheme) of every cell of which recovery is told; None where absent."""
    cells = {(c["row"]["run"], c["row"]["checkpoint"], c["row"]["scheme"], c["row"]["metric"]): c for c in loaded}
    targets = {}
    for cell in loaded:
        row = cell["row"]
        if row["method"] == "target" and (
            row["seed"] == tables.POOLED or (row["corpus"], row["scheme"], row["metric"]) not in targets
        ):
            targets[row["corpus"], row["scheme"], row["metric"]] = cell
    for cell in loaded:
        row = cell["row"]
        forget = row["kind"] in RECOVERED and row["split"] == "forget"
        if row["method"] not in tables.REFERENCES and forget:
            full = cells.get((row["run"], row["checkpoint"], "full", row["metric"]))
            yield cell, full, targets.get((row["corpus"], row["scheme"], row["metric"]))


def recovery_row(cell: dict, full: dict | None, target: dict | None) -> dict:
    """K and R of one cell; each is empty with a reason where it can't be told."""
    row = {name: value for name, value in cell["row"].items() if name not in ("value", "low", "high", "reason")}
    row |= {"unlearned": cell["row"]["value"], "interval": ""}
    row["unlearned_full"] = full["row"]["value"] if full else None
    row["target"] = target["row"]["value"] if target else None
    scheme = cell["row"]["scheme"]
    reason_k = lacking(("the unlearned run", cell), (f"the target under {scheme}", target))
    reason_r = reason_k or lacking(("the unlearned run at full precision", full))
    if not reason_k:
        row |= dict(zip(("K", "K_low", "K_high", "K_reason"), retained(cell, target), strict=True))
    if not reason_r:
        row |= dict(zip(("R", "R_low", "R_high", "R_reason"), recovered(cell, full, target), strict=True))
    if row.get("K") is not None or row.get("R") is not None:
        row["interval"] = cell["row"]["interval"]
    row.setdefault("K_reason", reason_k)
    row.setdefault("R_reason", reason_r)
    return row


def lacking(*parts: tuple[str, dict | None]) -> str:
    """Why a ratio can't be formed from these cells; empty if it can."""
    for name, cell in parts:
        if cell is None:
            return f"missing: {name} is not in the sweep"
        if cell["value"] is None:
            return f"{cell['row']['status']}: {name} ({cell['row']['reason']})"
        if cell["replicates"] is None:
            return f"undefined: {name} has no per-sample scores ({cell['row']['reason']})"
    if len({cell["row"]["n"] for _, cell in parts}) > 1:
        return "undefined: " + " and ".join(name for name, _ in parts) + " were scored on different numbers of samples"
    return ""


def retained(cell: dict, target: dict):
    """(K, low, high, reason)."""
    if cell["row"]["kind"] == "perplexity":
        return None, None, None, "undefined: a log-likelihood has no zero from which a share could be taken"
    return statistics.ratio(cell["value"], target["value"], cell["replicates"], target["replicates"], "the target's score")


def recovered(cell: dict, full: dict, target: dict):
    """(R, low, high, reason); undefined where the target under the scheme is not clearly above u at full precision."""
    if cell["row"]["n"] != full["row"]["n"]:
        return None, None, None, "undefined: full precision was scored on another number of samples"
    if [c["row"]["seed"] for c in cell.get("seeds", [])] != [c["row"]["seed"] for c in full.get("seeds", [])]:
        return None, None, None, "undefined: full precision has values for other seeds"
    nats = cell["row"]["kind"] == "perplexity"
    name = "target under the scheme minus unlearned at full precision"
    name += ", in nats per token," if nats else ""
    return statistics.ratio(*gains(cell, full, target), name, unit=1 if nats else 100)


def gains(cell: dict, full: dict, target: dict) -> tuple:
    """(what came back, what there was to come back, and their replicates) in the unit of M."""
    sign = -1 if cell["row"]["kind"] == "perplexity" else 1  # an NLL falls as knowledge comes back
    values = [sign * (one["value"] - full["value"]) for one in (cell, target)]
    return *values, *(sign * (one["replicates"] - full["replicates"]) for one in (cell, target))


def aggregate(cells: list[dict], results, stop: str | None = None) -> dict:
    """{"scores", "recovery"}: the two tables (pandas) of a sweep whose cells are given as dicts (see the command's --cells).

    stop: the forget score by which scripts.core.selection picks checkpoints besides the last ones.
    """
    results = Path(results)
    for number, cell in enumerate(cells):
        cell = cell if isinstance(cell, dict) else {"run": cell}
        for name in ("run", "corpus", "method", "scheme", "metric", "kind"):
            if not isinstance(cell.get(name), str):
                raise ValueError(f"cells[{number}].{name}: {cell.get(name)!r} is not allowed; allowed: a text")
    loaded = [load(cell, results) for cell in cells]
    add_privleak(loaded)
    for cell in loaded:
        fill_interval(cell, ONE)
    loaded += selection.stopped(loaded, stop) if stop else []
    loaded += pooled(loaded)
    rows = [cell["row"] for cell in loaded]
    return {"scores": tables.frame(rows, tables.SCORES), "recovery": tables.frame(recovery(loaded), tables.RECOVERY)}


def sweep_cells(config: dict) -> list[dict]:
    """The cells of a resolved configuration, with each metric's split."""
    from scripts.core.grid import plan

    metrics = config["metrics"]
    return [row | {"split": metrics[row["metric"]].get("split", "")} for row in plan(config).rows()]


def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.aggregate", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--cells", help="JSON list with one object per run, scheme and metric")
    source.add_argument("--sweep", help="JSON of a resolved configuration, from which the cells are planned")
    parser.add_argument("--results", required=True, help="folder of the runs")
    parser.add_argument("--out", required=True, help="folder of scores.parquet, scores.csv and recovery.csv")
    options = parser.parse_args(argv)
    try:
        config = read_json(options.sweep) if options.sweep else {}
        cells = read_json(options.cells) if options.cells else sweep_cells(config)
        if not isinstance(cells, list):
            raise ValueError(f"cells: {type(cells).__name__} is not allowed; allowed: a list of objects")
        stopping = config.get("evaluation", {})
        made = aggregate(cells, options.results, stopping.get("stop_metric") if stopping.get("stop") == "retrain" else None)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    out = Path(options.out)
    tables.write(made["scores"], out / "scores.parquet")
    tables.write(made["scores"], out / "scores.csv")
    tables.write(made["recovery"], out / "recovery.csv")
    counted = made["scores"].status.value_counts().to_dict()
    print(f"{len(made['scores'])} scores:", ", ".join(f"{n} {status}" for status, n in counted.items()), file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
