"""What each scheme costs and what it does to a model: one row per run and scheme, and the sweep's schemes in one table.

`--sweep … --results … --out …/schemes.csv` gathers from metric files: bits per weight of the quantized matrices, bytes of the
whole model, bytes on disk of an artifact, seconds from the stored checkpoint to the quantized model (of an artifact: those
of its making, without the library's import), layers quantized and left alone, calibration set. `--tables …` prints, as
Markdown, these beside perplexity, VerbMem and recovery with their intervals, for the target and each unlearned model.
"""

import argparse
import json
import sys
from pathlib import Path

from scripts.core import process
from scripts.core.analysis import columns, tables
from scripts.core.planning import sweep
from scripts.core.planning.grid import plan
from scripts.core.planning.plan import labels
from scripts.core.storage import read_json

# Columns of the printed table: head, kind and split of the metric ("": any).
SCORES = (("perplexity, retain", "perplexity", "retain"), ("VerbMem, forget", "verbmem", "forget"))
RECOVERED = (("VerbMem", "verbmem", ""), ("log p", "perplexity", ""))


def parameters(scheme: dict) -> str:
    """A scheme's settings without its name and kind, as JSON."""
    return json.dumps({k: v for k, v in scheme.items() if k not in ("name", "kind")}, sort_keys=True)


def rows(config: dict, results: Path) -> list[dict]:
    """One row per run and scheme that has been evaluated."""
    found = []
    for run, scheme in plan(config).cells:
        folder = results / run.path / "eval" / scheme
        content = next((c for c in (described(folder / f"{name}.json") for name in config["metrics"]) if c), None)
        if content:
            facts = {name: content.get(name) for name in columns.SCHEMES if name in content}
            facts |= {
                "left_alone": " ".join(content.get("left_alone") or []),
                "calibration": (content.get("calibration") or {}).get("set"),
            }
            settings = config["schemes"][scheme]
            own = {"scheme": scheme, "quantizer": settings["kind"], "parameters": parameters(settings)}
            found.append({k: v for k, v in labels(run).items() if k in columns.SCHEMES} | own | facts)
    return found


def described(path: Path) -> dict | None:
    """What a metric file says of its model's quantization; None where it says nothing."""
    try:
        content = read_json(path)
        # Seconds of an artifact are those of its making; of other schemes, of their making in the evaluation's memory.
        return {"seconds": (content.get("provenance") or {}).get("quantize_seconds")} | content["quantization"]
    except (KeyError, ValueError, OSError, AttributeError):
        return None


def markdown(read: dict) -> list[str]:
    """The table's lines; one block per unlearned model."""
    scores, recovery, costs = tables.cells(read["scores"]), tables.cells(read["recovery"]), read["schemes"]
    chosen, regained = tables.present(scores, SCORES), tables.present(recovery, RECOVERED)
    values, shares = tables.by_cell(scores), tables.by_cell(recovery)
    targets = {row.corpus: tables.key(row) for row in scores[scores.method == "target"].itertuples()}
    head = ["scheme", "bits", "MB", "s"]
    head += [f"{title}: {who}" for title, _ in chosen for who in ("target", "unlearned")]
    head += [f"R of {title}, %" for title, _ in regained]
    lines = []
    for key, name in tables.label(scores).items():
        block = costs[[tables.key(row) == key for row in costs.itertuples()]].drop_duplicates("scheme")
        block = block.set_index("scheme", drop=False).loc[tables.schemes(block)]  # by falling bits
        lines += ["", f"{key.corpus}: {name}", "", "| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
        for cost in block.itertuples():
            cells = [cost.scheme, f"{cost.bits_per_weight:.2f}", f"{cost.bytes / 1e6:.2f}", f"{cost.seconds:.1f}"]
            for _, metric in chosen:
                pair = (values.get((who, cost.scheme, metric)) for who in (targets.get(key.corpus), key))
                cells += [number(row) for row in pair]
            cells += [share(shares.get((key, cost.scheme, metric)), cost.scheme) for _, metric in regained]
            lines.append("| " + " | ".join(cells) + " |")
    return lines[1:]


def number(row) -> str:
    """A score with its interval, or why there is none."""
    if row is None or row.value != row.value:
        return "–" if row is None else row.status
    digits = 2 if row.kind == "perplexity" and row.value < 100 else 1
    bounds = f" [{row.low:.{digits}f}, {row.high:.{digits}f}]" if row.low == row.low else ""
    return f"{row.value:.{digits}f}{bounds}"


def share(row, scheme: str) -> str:
    """A recovery in percent with its interval, or why there is none in a word; full precision has none."""
    if row is None or scheme == "full":
        return ""
    if row.R != row.R:
        return row.R_reason.split(":")[0] or row.status
    return f"{100 * row.R:z.0f} [{100 * row.R_low:z.0f}, {100 * row.R_high:z.0f}]"


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.schemes", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--sweep", help="JSON of a resolved configuration; with --results and --out, writes the table")
    source.add_argument("--tables", metavar="DIR", help="folder with scores.csv, recovery.csv and schemes.csv; prints them as one")
    parser.add_argument("--results", type=Path, help="folder of the runs")
    parser.add_argument("--out", help="file that is written: schemes.csv")
    options = parser.parse_args(argv)
    if options.sweep and not (options.results and options.out):
        raise ValueError("--sweep: needs --results and --out")
    if options.tables:
        print("\n".join(markdown(tables.read(options.tables, ("scores", "recovery", "schemes")))))
    else:
        made = tables.frame(rows(sweep.resolved(options.sweep), options.results), columns.SCHEMES)
        tables.write(made, options.out)
        print(f"{len(made)} models under schemes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    process.tell(main)
