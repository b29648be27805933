"""What a sweep found, in five sentences that are filled from its tables: nothing here knows a result."""

import pandas as pd

from scripts.core.analysis import published, tables


def sentences(scores: pd.DataFrame, recovery: pd.DataFrame) -> list[str]:
    """Five sentences: what was run, what is retained, what comes back, with which weights, and what the scheme costs."""
    scores, recovery = (table[table.checkpoint == ""] for table in (scores, recovery))  # the last checkpoint of each run
    cells, back = tables.cells(scores), tables.cells(recovery)
    scheme = coarsest(recovery)
    return [
        ran(cells, scores[scores.seed != tables.POOLED]),
        retained(recovery, scheme),
        returned(back),
        weights(back, scheme),
        cost(cells, scheme),
    ]


def coarsest(recovery: pd.DataFrame) -> str:
    """The scheme under which models with a utility constraint keep the largest share; empty where no share can be formed."""
    table = published.retained(recovery)
    return "" if table.empty else table.sort_values("share_quantized").scheme.iloc[-1]


def ran(cells: pd.DataFrame, single: pd.DataFrame) -> str:
    """How many models, schemes and scores there are, and what has none."""
    unlearned = cells[~cells.method.isin(tables.REFERENCES)]
    count = len(unlearned[tables.GROUP].drop_duplicates())
    counted = single.status.value_counts()
    gaps = ", ".join(f"{n} {name}" for name, n in counted.items() if name != "ok") or "none missing"
    schemes = ", ".join(tables.schemes(cells))
    scored = f"{count} unlearned model{'s were' if count != 1 else ' was'} scored under {schemes}"
    return f"{scored}: {counted.get('ok', 0)} scores, {gaps}."


def retained(recovery: pd.DataFrame, scheme: str) -> str:
    """The share of the target's forget scores at full precision and under the scheme that gives most back."""
    if not scheme:
        return "What share of the forgotten knowledge is retained can't be told: no model with a regularizer has its scores."
    row = published.retained(recovery).set_index("scheme").loc[scheme]
    shares = (
        f"{row.share_full:.0f} % of the target's forget scores at full precision and {row.share_quantized:.0f} % under {scheme}"
    )
    how = f"the scheme with the largest share ({row.cells:.0f} cells; the target under the same scheme)"
    return f"Models with a regularizer still show {shares}, {how}."


def returned(back: pd.DataFrame) -> str:
    """In how many cells recovery is clearly above 0, and where it is largest."""
    told = back[(back.kind == "verbmem") & (back.scheme != "full") & back.R.notna()]
    if told.empty:
        return "Recovery of VerbMem can't be told in any cell: nothing was clearly forgotten at full precision."
    top = told.sort_values("R").iloc[-1]
    clear = (told.R_low > 0).sum()
    return (
        f"Quantization gives back forgotten text in {clear} of {len(told)} cells (R of VerbMem, its 95 % interval above 0); "
        f"most in {top.method}_{top.regularizer} {top.weights} lr {top.lr} under {top.scheme}: "
        f"{100 * top.R:.0f} % [{100 * top.R_low:.0f}, {100 * top.R_high:.0f}]."
    )


def models(count: int) -> str:
    """So many models, in words."""
    return f"{count} model{'s' if count != 1 else ''}"


def weights(back: pd.DataFrame, scheme: str) -> str:
    """Median recovery by the precision of the weights that the optimiser wrote."""
    told = back[(back.kind == "verbmem") & (back.scheme == scheme) & back.R.notna()]
    groups = told.groupby("weights").R
    if len(groups) < 2:
        return "Whether the precision of the weights matters can't be told: recovery has values for fewer than two precisions."
    parts = [f"{100 * part.median():.0f} % with {name} weights ({models(len(part))})" for name, part in groups]
    return f"Under {scheme} the median recovery of VerbMem is {' and '.join(parts)}."


def cost(cells: pd.DataFrame, scheme: str) -> str:
    """What the scheme costs in KnowMem on the retain set."""
    table = cells[(cells.kind == "knowmem") & (cells.split == "retain") & ~cells.method.isin(tables.REFERENCES)]
    pivot = table.pivot_table(index=tables.GROUP, columns="scheme", values="value")
    if not {"full", scheme} <= set(pivot):
        return "What quantization costs in utility can't be told: KnowMem on the retain set has no scores to compare."
    change = (pivot[scheme] - pivot["full"]).dropna()
    return f"KnowMem on the retain set changes by {change.median():+.1f} points under {scheme} (median of {models(len(change))})."
