"""Cells that forget alike: what every scheme gives back of it, and what is left of the retain set.

A cure can be told from weaker unlearning only between models that forgot alike at full precision. For each cell named with
`--like` (a setting), the cells of its corpus, method and regularizer are kept whose forgetting F lies within a share
(`--within`) of its own. F = M(target, full) − M(cell, full) on one forget metric (`--by`; of a perplexity M is −NLL per token).

alike.csv: one row per cell, scheme and metric with its value, 95 % interval and the target's value; `forgotten` is F over the named
cell's F; R and its interval stand at forget metrics (recovery.csv). Seeds are pooled. Prints the same as Markdown tables.
"""

import argparse

import numpy as np
import pandas as pd

from scripts.core import process, registry
from scripts.core.analysis import recovery as recovered
from scripts.core.analysis import tables

LABELS = ["corpus", "method", "regularizer"]
SHARES = ["R", "R_low", "R_high", "R_reason"]
COLUMNS = [*LABELS, "like", "setting", "lr", "weights", "moments", "max_steps", "seeds", "forgotten"]
COLUMNS += ["scheme", "metric", "kind", "split", "value", "low", "high", "target", *SHARES]
WITHIN = 0.2


def known(row_values: pd.Series, kind: str) -> pd.Series:
    """M, of which more is more knowledge: a score as it is, of a perplexity −NLL per token."""
    return -np.log(row_values) if kind == "perplexity" else row_values


def tells(row) -> bool:
    """Whether a row's metric tells what is known of the forget set, so that it has an R."""
    return recovered.tells_recovery({"kind": row.kind, "split": row.split})


def alike(scores: pd.DataFrame, recovery: pd.DataFrame, like: list[str], by: str, within: float = WITHIN) -> list[dict]:
    """Rows of COLUMNS. ValueError for a setting or a metric that the tables don't have."""
    table = tables.cells(scores[scores.checkpoint == ""])
    forget = [row.metric for row in table.drop_duplicates("metric").itertuples() if tells(row)]
    if by not in forget:
        raise ValueError(f"--by: {by!r} is not a forget metric of these scores; allowed: {', '.join(forget)}")
    cells = compared(table, tables.cells(recovery))
    for name in like:
        if name not in set(cells.setting):
            raise ValueError(f"--like: unknown setting {name!r}; {registry.nearest(name, sorted(set(cells.setting)))}")
    forgot, made = forgetting(cells, by), []
    for group, part in cells.groupby(LABELS, sort=False):
        for name in like:
            named = part[part.setting == name]
            if named.empty:
                continue
            standard = forgot.get(tables.key(named.iloc[0]), np.nan)
            if not standard > 0:
                cell = f"{'_'.join(group[1:])} {name!r}"
                raise ValueError(
                    f"--like: {cell} has no forgetting that {by} could tell at full precision; "
                    "allowed: a cell that scores below the target"
                )
            label = dict(zip(LABELS, group, strict=True)) | {"like": name}
            made += [row | label for row in neighbours(part, forgot / standard, within)]
    return made


def compared(table: pd.DataFrame, recovery: pd.DataFrame) -> pd.DataFrame:
    """The unlearned cells of a table of scores, each with the target's value and with its recovery (SHARES)."""
    at, key = ["corpus", "scheme", "metric"], [*tables.GROUP, "scheme", "metric"]
    target = table[table.method == "target"].set_index(at).value.rename("target")
    cells = table[~table.method.isin(tables.REFERENCES)]
    return cells.join(target, on=at).join(recovery.set_index(key)[SHARES], on=key)


def forgetting(cells: pd.DataFrame, by: str) -> pd.Series:
    """F of each cell by its key: M(target) − M(cell) of the metric `by` at full precision. ValueError where none has it."""
    whole = cells[(cells.scheme == "full") & (cells.metric == by)]
    if whole.empty:
        raise ValueError(f"--by: no unlearned cell has {by!r} at full precision; allowed: tables of a sweep with the scheme full")
    kind = whole.kind.iloc[0]
    return (known(whole.target, kind) - known(whole.value, kind)).set_axis(pd.MultiIndex.from_frame(whole[tables.GROUP]))


def neighbours(cells: pd.DataFrame, share: pd.Series, within: float) -> list[dict]:
    """Rows of the cells whose forgetting, as a share of the named cell's, lies within `within` of 1; `forgotten` is that share."""
    rows = []
    for row in cells.to_dict("records"):
        forgotten = share.get(tuple(row[label] for label in tables.GROUP), np.nan)
        if abs(forgotten - 1) <= within:
            rows.append(row | {"forgotten": forgotten, "max_steps": pd.to_numeric(row.get("max_steps") or None)})
    return rows


def shown(rows: list[dict]) -> str:
    """Markdown: for each named cell and metric one line per cell, one column per scheme."""
    table, lines = pd.DataFrame(rows), []
    order = tables.schemes(table)
    for group, part in table.groupby([*LABELS, "like"], sort=False):
        lines.append(f"{group[0]}: {group[1]}_{group[2]}, cells that forget like {group[3]}\n")
        for metric in dict.fromkeys(part.metric):
            one = part[part.metric == metric]
            share = tells(one.iloc[0])
            heads = [f"{name}{', R in %' if share and name != 'full' else ''}" for name in order]
            lines += [f"| {tables.title(one, metric)} | forgotten | {' | '.join(heads)} |", "| --- " * (2 + len(order)) + "|"]
            aim = one.drop_duplicates("scheme").set_index("scheme").target
            lines.append(f"| target | 0 % | {' | '.join(number(aim.get(name, float('nan'))) for name in order)} |")
            for setting, cell in one.groupby("setting", sort=False):
                entries = [entry(row, share) for row in (cell[cell.scheme == name] for name in order)]
                lines.append(f"| {setting} | {100 * cell.forgotten.iloc[0]:.0f} % | {' | '.join(entries)} |")
            lines.append("")
    return "\n".join(lines)


def entry(row: pd.DataFrame, share: bool) -> str:
    """A score with its interval; under a scheme, where `share` says so, R in %."""
    if row.empty:
        return "–"
    row = row.iloc[0]
    if not share or row.scheme == "full":
        return "–" if np.isnan(row.value) else f"{number(row.value)} [{number(row.low)}, {number(row.high)}]"
    return "–" if np.isnan(row.R) else f"{100 * row.R:z.0f} [{100 * row.R_low:z.0f}, {100 * row.R_high:z.0f}]"


def number(value: float) -> str:
    """Small numbers (perplexities) with two decimals, others with one."""
    return "–" if np.isnan(value) else f"{value:.{2 if abs(value) < 10 else 1}f}"


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.alike", description=__doc__.splitlines()[0])
    parser.add_argument("--tables", required=True, metavar="DIR", help="folder with scores.csv and recovery.csv")
    parser.add_argument("--like", required=True, nargs="+", metavar="SETTING", help="settings, as their folders are named")
    parser.add_argument("--by", required=True, metavar="METRIC", help="forget metric that tells how much was forgotten")
    parser.add_argument("--within", type=float, default=WITHIN, help=f"largest difference in forgetting (default {WITHIN})")
    parser.add_argument("--out", metavar="FILE", help="CSV file to write")
    options = parser.parse_args(argv)
    found = tables.read(options.tables)
    rows = alike(found["scores"], found["recovery"], options.like, options.by, options.within)
    if options.out:
        tables.write(tables.plain(rows, COLUMNS), options.out)
    print(shown(rows))
    return 0


if __name__ == "__main__":
    process.tell(main)
