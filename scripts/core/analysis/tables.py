"""The tidy tables of a sweep, and how their rows are named in figures.

`scores` has one row per run, scheme and metric; `recovery` one per unlearned run, scheme and forget metric. Further tables
lie beside them, each written by a rule of its own (scripts/core/analysis/columns.py lists them). Figures and the summary read
tables alone, so they need neither torch nor a checkpoint.
"""

from collections import namedtuple
from pathlib import Path

import pandas as pd

from scripts.core.analysis.columns import CELL, GROUP, RECOVERY, SCORES, TABLES
from scripts.core.storage import whole_file

NUMBERS = ["value", "low", "high", "n", "seeds", "bits_per_weight", "K", "K_low", "K_high", "R", "R_low", "R_high"]
NUMBERS += ["unlearned", "unlearned_full", "target", "D", "D_low", "D_high", "step", "units", "reach"]
COUNTS = ["n", "units", "seeds", "step"]
POOLED = "all"
# `checkpoint` of the rows that MUSE's rule picks; that of a last checkpoint is empty, of others step100 or epoch3.
STOPPED = "stop: retrain"
REFERENCES = ("target", "retrain")
TITLES = {"verbmem": "VerbMem", "knowmem": "KnowMem", "privleak": "PrivLeak", "perplexity": "Perplexity"}
# Tables of earlier versions may lack columns. Without one of these a row says nothing; others are left empty.
NEEDED = {*CELL, "value", "status", "K", "K_low", "K_high", "R", "R_low", "R_high", "unlearned", "target"} - {"checkpoint", "step"}
LATER = ("reach",)  # columns that came later to other tables, which need all the rest of theirs
ANEW = "remove it and run the sweep again: it is made anew from what is cached"


class Key(namedtuple("Key", GROUP)):
    """What the seeds of one cell have in common, by the names of GROUP."""

    __slots__ = ()

    @property
    def family(self) -> str:
        """Method and regularizer, e.g. npo_gdr."""
        return f"{self.method}_{self.regularizer}"


def frame(rows: list[dict], columns: list[str]) -> pd.DataFrame:
    """Rows as a table: `columns` first, then what else the rows hold; numbers are floats with NaN where empty, the rest text."""
    extra = dict.fromkeys(key for row in rows for key in row if key not in columns)
    table = pd.DataFrame(rows, columns=[*columns, *extra])
    for name in table:
        if name in NUMBERS:
            table[name] = pd.to_numeric(table[name]).astype("Int64" if name in COUNTS else float)
        elif name in columns or table[name].map(type).nunique() > 1:
            table[name] = [text(value) for value in table[name]]
    return table


def plain(rows: list[dict], columns: list[str]) -> pd.DataFrame:
    """Rows as a table of exactly these columns, numbers to six significant digits; what is not there is empty."""
    table = pd.DataFrame(rows, columns=columns)
    return table.map(lambda value: float(f"{value:.6g}") if isinstance(value, float) else "" if value is None else value)


def text(value) -> str:
    """A value as it stands in a text column; empty for what is not there."""
    return "" if value is None or (isinstance(value, float) and value != value) else str(value)


def write(table: pd.DataFrame, path, decimals: int | None = 6) -> None:
    """Write a .csv or .parquet file atomically; six decimals, so that equal results are equal bytes (None: all there are)."""
    rounded = table if decimals is None else table.round(decimals)
    with whole_file(path) as file:
        if Path(path).suffix == ".parquet":
            rounded.to_parquet(file, index=False)
        else:
            rounded.to_csv(file, index=False)


def read(folder, names=("scores", "recovery")) -> dict[str, pd.DataFrame]:
    """The named tables of a results folder; ValueError that names a file that is missing or no such table, and what makes it."""
    tables = {}
    for name in names:
        path = Path(folder) / f"{name}.csv"
        if not path.exists():
            raise ValueError(f"tables: {str(path)!r} does not exist; allowed: a folder of results with {name}.csv")
        # Only numbers are parsed: an empty lr or reason stays text, seed "0" is not 0.0.
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
            for column in table.columns.intersection(NUMBERS):
                table[column] = pd.to_numeric(table[column]).astype(float)
        except ValueError as error:
            raise ValueError(f"tables: {str(path)!r} is not readable as a table ({error}); {ANEW}") from error
        table = whole(table, name, path)
        if name not in ("scores", "recovery"):
            for column in table.columns.difference([*SCORES, *NUMBERS]):
                table[column] = numeric(table[column])
        tables[name] = table
    return tables


def whole(table: pd.DataFrame, name: str, path) -> pd.DataFrame:
    """A table that was read, with the columns that it lacks as empty ones; ValueError where it lacks one that is NEEDED."""
    lacking = [column for column in TABLES.get(name, ()) if column not in table]
    if lost := [column for column in lacking if column in NEEDED or column not in (*SCORES, *RECOVERY, *LATER)]:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise ValueError(f"tables: {str(path)!r} has no column {', '.join(lost[:3])}{more}: another version wrote it; {ANEW}")
    return table.assign(**{column: float("nan") if column in NUMBERS else "" for column in lacking})


def numeric(column: pd.Series) -> pd.Series:
    """A text column as floats where each of its entries is a number or empty, else as it is."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers.astype(float) if (numbers.notna() | (column == "")).all() and numbers.notna().any() else column


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell: the pooled row where there is one, else the row of the only seed. Order is kept."""
    pooled = table[table.seed == POOLED]
    key = [*GROUP, "scheme", "metric"]
    covered = set(pooled[key].itertuples(index=False, name=None))
    single = [row not in covered for row in table[key].itertuples(index=False, name=None)]
    return table[(table.seed == POOLED) | pd.Series(single, index=table.index, dtype=bool)].sort_index()


def schemes(table: pd.DataFrame) -> list[str]:
    """Scheme names: full precision first, then by falling bits per weight, else in order of appearance."""
    found = list(dict.fromkeys(table.scheme))
    bits = table.groupby("scheme").bits_per_weight.median()
    return sorted(found, key=lambda name: (name != "full", -bits[name] if bits[name] == bits[name] else 0))


def corpora(table: pd.DataFrame) -> list[str]:
    """Corpus names in order of appearance."""
    return list(dict.fromkeys(table.corpus))


def metric(table: pd.DataFrame, kind: str, split: str = "") -> str | None:
    """Name of the first metric of a kind (and split) in a table, or None."""
    found = table[(table.kind == kind) & ((table.split == split) if split else True)]
    return None if found.empty else found.metric.iloc[0]


def utility(table: pd.DataFrame) -> str | None:
    """Name of the metric that stands for utility: KnowMem on the retain set, VerbMem there where a table has no such, or None."""
    return metric(table, "knowmem", "retain") or metric(table, "verbmem", "retain")


def title(table: pd.DataFrame, name: str) -> str:
    """How a metric is called on an axis, e.g. 'VerbMem, forget set'."""
    row = table[table.metric == name].iloc[0]
    words = TITLES.get(row.kind, name)
    return f"{words}, {row.split} set" if row.split else words


def label(table: pd.DataFrame) -> dict[Key, str]:
    """Names of unlearned cells by key: method_regularizer and weights, and as much more as tells them apart."""
    keys = [Key(*values) for values in dict.fromkeys(table[GROUP].itertuples(index=False, name=None))]
    names = {key: f"{key.family} {key.weights}".strip() for key in keys if key.method not in REFERENCES}
    where = {key: f" ({key.checkpoint})" if key.checkpoint else "" for key in names}
    for more in ("lr", "setting"):
        # Cells of different corpora stand in different panels and may share a name.
        seen = pd.Series([(key.corpus, name + where[key]) for key, name in names.items()], dtype=object).value_counts()
        for key, name in names.items():
            if seen[(key.corpus, name + where[key])] > 1:
                names[key] = f"{name} lr{key.lr}" if more == "lr" else f"{key.family} {key.setting}"
    return {key: name + where[key] for key, name in names.items()}


def key(row) -> Key:
    """The key of a row."""
    return Key(*(getattr(row, name) for name in GROUP))


def by_cell(table: pd.DataFrame) -> dict[tuple, object]:
    """{(key, scheme, metric): row} of a table whose seeds are pooled (see `cells`)."""
    return {(key(row), row.scheme, row.metric): row for row in table.itertuples()}


def present(table: pd.DataFrame, columns) -> list[tuple[str, str]]:
    """(head, metric) of those columns (head, kind, split) for which a table has a metric."""
    found = [(head, metric(table, kind, split)) for head, kind, split in columns]
    return [(head, name) for head, name in found if name]
