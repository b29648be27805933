"""Does calibrating on the forget set bring more of it back? Schemes that differ in their calibration set alone, compared.

For every unlearned run (and pool of seeds), forget metric and family of such schemes: the recovery R under each set, as in
recovery.csv, and D = R − R of the generic set (of the first, where there is none). D's interval is paired: each resample
draws the same samples for all schemes, the target and full precision.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from scripts.core import process
from scripts.core.analysis import columns, pooling, recovery, scored, statistics, tables
from scripts.core.analysis.scored import Score
from scripts.core.planning import grid, sweep

BASE = "generic"


def families(schemes: dict) -> list[dict[str, str]]:
    """{calibration set: scheme name} of each group of at least two schemes that differ in it alone."""
    found = {}
    for name, scheme in schemes.items():
        if "calibration" in scheme:
            rest = {k: v for k, v in scheme.items() if k not in ("calibration", "text")}
            found.setdefault(json.dumps(rest, sort_keys=True), {}).setdefault(scheme["calibration"], name)
    return [sets for sets in found.values() if len(sets) > 1]


def compare(config: dict, results) -> list[dict]:
    """The table's rows, from a resolved configuration and the folder of its results."""
    groups = families(config["schemes"])
    wanted = {name for sets in groups for name in sets.values()}
    if not wanted:
        return []
    cells = [cell for cell in grid.plan(config).rows() if cell["scheme"] in wanted | {"full"}]
    cells = [cell for cell in cells if recovery.tells_recovery(cell)]
    scores = [scored.load(cell, Path(results)) for cell in cells]
    scores += pooling.pooled(scores)
    parts = {}
    for matched in recovery.matched(scores):
        row = matched[0].row
        parts[(row["run"], row["checkpoint"]), row["scheme"], row["metric"]] = matched  # pools of checkpoints share a path
    rows = []
    for run, metric in dict.fromkeys((run, metric) for run, _, metric in parts):
        for sets in groups:
            base = BASE if BASE in sets else next(iter(sets))
            for chosen, scheme in sets.items():
                if not {(run, scheme, metric), (run, sets[base], metric)} <= parts.keys():
                    continue  # this run can't be held by the scheme
                row = recovery.row_of(*parts[run, scheme, metric])
                settings = config["schemes"][scheme]
                row |= {"quantizer": settings["kind"], "bits": settings.get("bits"), "family": sets[base]}
                row |= {"calibration": chosen, "base": base}
                rows.append(row | difference(parts[run, scheme, metric], parts[run, sets[base], metric], chosen == base))
    return rows


def difference(ours: tuple, base: tuple, same: bool) -> dict:
    """{"D", "D_low", "D_high"} or {"D_reason"}; nothing for the base itself."""
    if same:
        return {}
    for parts in (ours, base):
        row = recovery.row_of(*parts)
        if row.get("R") is None:
            return {"D_reason": f"{row['scheme']}: {row['R_reason']}"}
    if reason := recovery.lacking(*((parts[0].row["scheme"], parts[0]) for parts in (ours, base))):
        return {"D_reason": reason}
    (value, draws), (value_base, draws_base) = share(*ours), share(*base)
    low, high = statistics.interval(draws - draws_base)
    return {"D": value - value_base, "D_low": low, "D_high": high}


def share(score: Score, full: Score, target: Score) -> tuple[float, np.ndarray]:
    """R and its replicates; NaN where the denominator is not positive."""
    above, below, above_replicates, below_replicates = recovery.gains(score, full, target)
    return above / below, above_replicates / np.where(below_replicates > statistics.EPS, below_replicates, np.nan)


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.calibration_effect", description=__doc__.splitlines()[0])
    parser.add_argument("--sweep", required=True, help="JSON of a resolved configuration")
    parser.add_argument("--results", required=True, help="folder of the runs")
    parser.add_argument("--out", required=True, help="file that is written: calibration_effect.csv")
    options = parser.parse_args(argv)
    made = tables.frame(compare(sweep.resolved(options.sweep), options.results), columns.CALIBRATION_EFFECT)
    tables.write(made, options.out)
    print(f"{len(made)} rows", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
