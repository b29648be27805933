"""What the figures share: which rows a panel shows, and in which words it says what is missing."""

from scripts.core.analysis import tables

SHOWN = (("verbmem", "forget"), ("knowmem", "forget"))
LINES = {"bf16": "-", "bf16_stochastic": "--", "fp32": ":"}  # of arrows, by the precision of the weights
NAMES = {"verbmem": "VerbMem", "knowmem": "KnowMem", "perplexity": "the forget set's likelihood"}
NOTHING = "Nothing to draw yet: {}."


def unlearned(table):
    """One row per unlearned cell (pooled over seeds where there are several): last checkpoints, and those a rule picked."""
    table = tables.cells(table)
    return table[~table.method.isin(tables.REFERENCES) & table.checkpoint.isin(["", tables.STOPPED])]


def filling(weights: str, colour: str) -> dict:
    """How a mark says the precision of the weights: filled for bf16, half with stochastic rounding, hollow for fp32."""
    half = {"fillstyle": "left", "markerfacecoloralt": "white"} if weights == "bf16_stochastic" else {}
    return half | {"markerfacecolor": "white" if weights == "fp32" else colour}


def forget_metrics(table) -> list[str]:
    """VerbMem and KnowMem on the forget set, as far as a table has them."""
    found = [tables.metric(table, kind, split) for kind, split in SHOWN]
    return [name for name in found if name]


def most_defined(rows) -> str | None:
    """The forget metric that has an R in most rows; the first of those that have it equally often."""
    names = [*forget_metrics(rows), tables.metric(rows, "perplexity", "forget")]
    return max(filter(None, names), key=lambda name: rows.R[rows.metric == name].notna().sum(), default=None)


def references(table) -> dict:
    """Rows of target and retrain runs that have a value, by (corpus, method, metric, scheme)."""
    table = tables.cells(table[table.method.isin(tables.REFERENCES)])
    return {(row.corpus, row.method, row.metric, row.scheme): row for row in table[table.value.notna()].itertuples()}


def arms(rows) -> list[list[float]]:
    """Lengths of the intervals' lower and upper arms (2, rows), as matplotlib takes them; zero where there is no interval."""
    return lengths([(row.value - row.low, row.high - row.value) for row in rows])


def recovery_arms(rows) -> list[list[float]]:
    """The same of R's intervals, in percent."""
    return lengths([(100 * (row.R - row.R_low), 100 * (row.R_high - row.R)) for row in rows])


def lengths(pairs) -> list[list[float]]:
    """(2, n) of n pairs, what is negative or NaN as zero."""
    return [[max(0.0, pair[side]) if pair[side] == pair[side] else 0.0 for pair in pairs] for side in (0, 1)]


def valued(*rows) -> bool:
    """Whether all these rows exist and have a value."""
    return all(row is not None and row.value == row.value for row in rows)


def recovers(row) -> bool:
    """Whether a row exists and has a recovery R."""
    return row is not None and row.R == row.R


def absences(table, names: dict) -> list[str]:
    """Lines that say which cells have no value and why, schemes and metrics of one run with one reason together."""
    together = {}
    for row in table[table.value.isna()].itertuples():
        name = names.get(tables.key(row), row.method)
        together.setdefault((row.corpus, name, shorten(row)), []).append(row.scheme)
    several, count = len(set(table.corpus)) > 1, len(set(table.scheme))
    return [
        f"No value: {corpus + ', ' if several else ''}{name} ({listed(schemes, count)}): {reason}"
        for (corpus, name, reason), schemes in together.items()
    ]


def listed(schemes, count: int) -> str:
    """Scheme names once each; "all schemes" for all of `count`."""
    once = list(dict.fromkeys(schemes))
    return "all schemes" if 1 < len(once) == count else ", ".join(once)


def shorten(row) -> str:
    """A row's reason without paths."""
    return "not computed" if row.status == "missing" and "/" in row.reason else row.reason or row.status


def key_column(table):
    """The key of every row, as a list."""
    return [tables.key(row) for row in table.itertuples()]


def whiskers(table, called: str = "Whiskers") -> str:
    """What the whiskers (or what else shows intervals) of the rows of a table are, for a figure's small print."""
    kinds = [kind for kind in dict.fromkeys(table.interval) if kind]
    return f"{called}: 95 % bootstrap intervals over " + " / ".join(kinds) if kinds else ""


def rate(text) -> float:
    """A learning rate as a number; 0 where a method has none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return 0.0
