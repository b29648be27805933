"""The paper's tables from cached scores, beside the published numbers: `python -m scripts.paper_tables --tables DIR --out DIR`.

precisions: full, 8-bit and 4-bit scores per method (table 1 of arXiv 2410.16454); calibrated: GPTQ, AWQ and round-to-nearest,
beside an independent reproduction; sure: SURE with Gen, Tru, Fac and Flu (table 3); retained: the share of the forget scores that
models with a utility constraint still show (the paper's 21 % and 83 %). Each as .csv, .md and .tex, from scores.csv and
recovery.csv alone.
"""

import argparse
from pathlib import Path

import pandas as pd

from scripts.core import process
from scripts.core.analysis import published, tables
from scripts.core.storage import write_text

HEADS = {
    "verbmem_f": "VerbMem f",
    "knowmem_f": "KnowMem f",
    "privleak": "PrivLeak",
    "knowmem_r": "KnowMem r",
    "gen": "Gen",
    "tru": "Tru",
    "fac": "Fac",
    "flu": "Flu",
}
UTILITY = ("gen", "tru", "fac", "flu")
SOURCES = {
    "precisions": (published.PRECISIONS,),
    "calibrated": ("independent reproduction, October 2026",),
    "sure": ("arXiv 2410.16454, table 3",),
}
MISSING = "–"
NOTE = "Ours (published; difference). " + MISSING + ": no value. f forget set, r retain set."


def model(row: dict) -> str:
    """A row's model, e.g. 'npo_klr + SURE module'."""
    name = row["method"] if row["method"] in tables.REFERENCES else f"{row['method']}_{row['regularizer']}"
    return name + (f" + SURE {row['saliency']}" if row["saliency"] else "")


def chosen(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `published.beside` that belong to a table."""
    if table.empty:
        return table
    known, scheme = table.published_scheme != "", table.scheme
    if name == "precisions":
        return table[known | ((table.saliency == "") & scheme.isin(["full", "bnb_int8", "bnb_fp4", "bnb_nf4", "rtn_int4_g128"]))]
    if name == "calibrated":
        return table[known | scheme.str.contains("gptq|awq")]
    return table[known | (table.saliency != "")]


def number(value: float, sign: bool = False) -> str:
    """A score with one decimal; MISSING where there is none."""
    return MISSING if value != value else f"{value:+.1f}" if sign else f"{value:.1f}"


def cell(row: dict, metric: str) -> str:
    """'ours (published; difference)', as much of it as there is; a status such as 'diverged' where there is no score of ours."""
    mine, theirs, gap = (row[metric + end] for end in ("", "_published", "_difference"))
    first = row["why"] if mine != mine and row["why"] in ("diverged", "not finite") else number(mine)
    if theirs != theirs:
        return first
    return f"{first} ({number(theirs)}{'; ' + number(gap, sign=True) if gap == gap else ''})"


def shown(name: str, table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and text cells of a table as .md and .tex print them."""
    if name == "retained":
        head = ["numbers", "scheme", "cells", "left out", "share, full", "share, quantized", "mean K, full", "mean K, quantized"]
        return head, [[str(v) if isinstance(v, int | str) else number(v) for v in row] for row in table.itertuples(index=False)]
    metrics = [
        m for m in HEADS if m not in UTILITY or (name != "precisions" and table[[m, f"{m}_published"]].notna().any(axis=None))
    ]
    several = table.setting.nunique() > 2 or table[table.setting != ""].duplicated([*published.KEY]).any()
    head = ["corpus", "model", *(["setting"] if several else []), "scheme", *(HEADS[m] for m in metrics)]
    rows = []
    for row in table.to_dict("records"):
        other = row["published_scheme"]
        scheme = row["scheme"] if other in ("", row["scheme"]) else f"{row['scheme']} ({other})"
        middle = [row["setting"]] if several else []
        rows.append([row["corpus"], model(row), *middle, scheme, *(cell(row, m) for m in metrics)])
    return head, rows


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(head: list[str], rows: list[list[str]]) -> str:
    """A tabular of the booktabs package."""

    def text(words: str) -> str:
        for old, new in (("\\", r"\textbackslash{}"), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("#", r"\#"), ("–", "--")):
            words = words.replace(old, new)
        return words

    lines = [" & ".join(map(text, line)) + r" \\" for line in [head, *rows]]
    columns = "".join("l" if rows and not rows[0][i][:1].isdigit() else "r" for i in range(len(head)))
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", r"\end{tabular}"]
    return "\n".join(body) + "\n"


def make(read: dict, schemes: dict | None = None) -> dict[str, pd.DataFrame]:
    """All tables by name from {"scores", "recovery"}; `schemes` says which scheme stands for a published one."""
    made = {name: chosen(name, published.beside(read["scores"], sources, schemes)) for name, sources in SOURCES.items()}
    parts = [published.retained(published.published_recovery()).assign(numbers=published.PRECISIONS)]
    if not read["recovery"].empty:
        parts.append(published.retained(read["recovery"]).assign(numbers="this sweep"))
    rows = pd.concat([part for part in parts if not part.empty])
    return made | {"retained": rows[["numbers", *rows.columns.drop("numbers")]]}


def write(made: dict[str, pd.DataFrame], out) -> None:
    """Write NAME.csv, .md and .tex of each table."""
    for name, table in made.items():
        tables.write(table, Path(out) / f"{name}.csv")
        head, rows = shown(name, table) if not table.empty else (["no rows"], [])
        note = published.retained.__doc__.split("\n\n")[1].replace("\n    ", "\n").strip() if name == "retained" else NOTE
        write_text(Path(out) / f"{name}.md", markdown(head, rows) + f"\n{note}\n")
        write_text(Path(out) / f"{name}.tex", "".join(f"% {one}\n" for one in note.splitlines()) + latex(head, rows))


def pair(text: str) -> tuple[str, str]:
    """'4bit=bnb_nf4' as a pair."""
    left, _, right = text.partition("=")
    if not left or not right:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: PUBLISHED=SCHEME, e.g. 4bit=bnb_nf4")
    return left, right


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.paper_tables", description=__doc__.splitlines()[0])
    parser.add_argument("--tables", required=True, metavar="DIR", help="folder with scores.csv and recovery.csv")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the tables")
    parser.add_argument("--scheme", type=pair, action="append", default=[], metavar="PUBLISHED=SCHEME", help="default 4bit=bnb_fp4")
    options = parser.parse_args(argv)
    write(make(tables.read(options.tables), dict(options.scheme)), options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
