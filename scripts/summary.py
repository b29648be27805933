"""The short table that ends a sweep: per method and scheme, what the model still says of the forget set and what came back."""

import argparse
from pathlib import Path

from scripts.core import process
from scripts.core.analysis import tables

# Columns: head, kind and split of the metric ("": any). Scores, then the recovery of what was forgotten.
SCORES = (("VerbMem f", "verbmem", "forget"), ("KnowMem f", "knowmem", "forget"))
SCORES += (("KnowMem r", "knowmem", "retain"), ("PrivLeak", "privleak", ""))
RECOVERED = (("R VerbMem", "verbmem", ""), ("R KnowMem", "knowmem", ""))


def lines(scores, recovery) -> list[str]:
    """The table as aligned lines; scores ×100, recovery of VerbMem and KnowMem in %, "–" where there is no value."""
    scores, recovery = tables.cells(scores), tables.cells(recovery)
    chosen, regained = tables.present(scores, SCORES), tables.present(recovery, RECOVERED)
    names, several = tables.label(scores), len(tables.corpora(scores)) > 1
    values, shares = tables.by_cell(scores), tables.by_cell(recovery)
    made = []
    for key in dict.fromkeys(key for key, _, _ in values):
        name = names.get(key, key.method)
        name = f"{key.corpus}: {name}" if several else name
        states = {row.status for (k, _, _), row in values.items() if k == key}
        if states in ({"diverged"}, {"missing"}):  # one line says it all
            made.append([name, "all", *(list(states) * len(chosen)), *("–" for _ in regained)])
            continue
        for scheme in tables.schemes(scores):
            row = [values.get((key, scheme, metric)) for _, metric in chosen]
            if any(row):
                back = [shares.get((key, scheme, metric)) if scheme != "full" else None for _, metric in regained]
                made.append([name, scheme, *(shown(r) for r in row), *(percent(r) for r in back)])
    return aligned(["model", "scheme", *(head for head, _ in chosen + regained)], made)


def aligned(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table of texts: the first two columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in [head, ["-" * width for width in widths], *rows]:
        texts = [text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(texts).rstrip())
    return lines


def shown(row) -> str:
    """A score with one decimal, or why there is none."""
    if row is None:
        return "–"
    return f"{row.value:.1f}" if row.value == row.value else row.status


def percent(row) -> str:
    """A recovery in percent with its interval, or "–" where it is undefined."""
    if row is None or row.R != row.R:
        return "–"
    return f"{100 * row.R:z.0f} % [{100 * row.R_low:z.0f}, {100 * row.R_high:z.0f}]"


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.summary", description=__doc__)
    parser.add_argument("--tables", required=True, metavar="DIR", help="folder with scores.csv and recovery.csv")
    parser.add_argument("--report", metavar="FILE", help="report to point to below the table, if it exists")
    options = parser.parse_args(argv)
    read = tables.read(options.tables)
    if read["scores"].empty:
        print("no scores yet")
        return 0
    print("\n".join(lines(read["scores"], read["recovery"])))
    print("\nScores ×100; f forget set, r retain set. R: share of the forgotten knowledge that a scheme gives back, with its 95 %")
    print("bootstrap interval; – where it is undefined (recovery.csv says why).")
    if options.report:
        print(f"Report: {options.report}" if Path(options.report).exists() else f"Report: {options.report} was not made")
    return 0


if __name__ == "__main__":
    process.tell(main)
