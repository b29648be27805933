"""What a sweep found, in five sentences that are filled from its tables: nothing here knows a result."""

import pandas as pd

from scripts.core.analysis import published, tables
from scripts.core.analysis.recovery import LEAD


def sentences(scores: pd.DataFrame, recovery: pd.DataFrame) -> list[str]:
    """Five sentences: what was run, what is retained, what comes back, with which weights, and what the scheme costs."""
    scores, recovery = (table[table.checkpoint == ""] for table in (scores, recovery))  # the last checkpoint of each run
    single, shares = scores[scores.seed != tables.POOLED], published.retained(recovery)
    back = of(tables.cells(recovery), "verbmem", "forget")
    back = back[back.scheme != "full"]
    scheme = coarsest(shares, back)
    return [ran(single), retained(shares, scheme), returned(back), weights(back, scheme), cost(single, scheme)]


def of(table: pd.DataFrame, kind: str, split: str) -> pd.DataFrame:
    """Rows of the first metric of a kind and split: with all of several, each model would count more than once."""
    return table[table.metric == tables.metric(table, kind, split)]


def coarsest(shares: pd.DataFrame, back: pd.DataFrame) -> str:
    """The scheme under which models with a utility constraint keep the largest share; where no share can be formed the one with
    the largest median R of VerbMem, and empty without that, too.
    """
    if not shares.empty:
        return shares.sort_values("share_quantized").scheme.iloc[-1]
    defined = back[back.R.notna()]
    return "" if defined.empty else defined.groupby("scheme").R.median().idxmax()


def counted(number: int, word: str) -> str:
    """So many of something, in words."""
    return f"{number} {word}{'s' if number != 1 else ''}"


def ran(single: pd.DataFrame) -> str:
    """How many models, schemes and scores there are, and what has none. single: scores of single seeds."""
    unlearned = single[~single.method.isin(tables.REFERENCES)]
    every, with_score = (table.run.nunique() for table in (unlearned, unlearned[unlearned.status == "ok"]))
    share = f"{with_score} of " if with_score < every else ""
    verb = "was" if with_score == 1 else "were"
    states = single.status.value_counts()
    gaps = ", ".join(f"{n} {name}" for name, n in states.items() if name != "ok") or "none missing"
    also = " (with those of target and retrain)" if len(unlearned) < len(single) else ""
    under, scored = ", ".join(tables.schemes(unlearned)) or "no scheme", counted(states.get("ok", 0), "score")
    return f"{share}{counted(every, 'unlearned model')} {verb} scored under {under}: {scored}{also}, {gaps}."


def retained(shares: pd.DataFrame, scheme: str) -> str:
    """The share of the target's forget scores at full precision and under the scheme that gives most back."""
    if shares.empty:
        return (
            "What share of the forgotten knowledge is retained can't be told: no model with a regularizer has forget scores beside "
            "the target's, at full precision and under a scheme."
        )
    row = shares.set_index("scheme").loc[scheme]
    told = f"{row.share_full:.0f} % of the target's forget scores at full precision and {row.share_quantized:.0f} % under {scheme}"
    how = f"the scheme with the largest share ({counted(int(row.cells), 'cell')}; the target under the same scheme)"
    return f"Models with a regularizer still show {told}, {how}."


def returned(back: pd.DataFrame) -> str:
    """In how many cells recovery is clearly above 0, and where it is largest."""
    defined = back[back.R.notna()]
    if defined.empty:
        why = "VerbMem of the forget set was not scored under any scheme"
        if not back.empty:
            little = back.R_reason.str.contains(LEAD, regex=False).all()
            why = "scores that it takes are not there (recovery.csv says which)"
            if little:
                why = "under no scheme does the target score clearly above the unlearned model at full precision"
        return f"Recovery of VerbMem can't be told in any cell: {why}."
    top = defined.sort_values("R").iloc[-1]
    clear = (defined.R_low > 0).sum()
    precision = f" {top.weights} lr {top.lr}" if top.weights else ""
    where = f"{clear} of {counted(len(defined), 'cell')} (R of VerbMem, its 95 % interval above 0)"
    return (
        f"Quantization gives back forgotten text in {where}; most in {top.method}_{top.regularizer}{precision} under {top.scheme}: "
        f"{100 * top.R:z.0f} % [{100 * top.R_low:z.0f}, {100 * top.R_high:z.0f}]."
    )


def weights(back: pd.DataFrame, scheme: str) -> str:
    """Median recovery by the precision of the weights that the optimiser wrote; arithmetic on checkpoints has none."""
    defined = back[(back.scheme == scheme) & back.R.notna() & (back.weights != "")]
    groups = defined.groupby("weights").R
    if len(groups) < 2:
        where = f" under {scheme}" if scheme else ""
        few = f"recovery of VerbMem has values{where} for fewer than two precisions"
        return f"Whether the precision of the weights matters can't be told: {few}."
    parts = [f"{100 * part.median():z.0f} % with {name} weights ({counted(len(part), 'cell')})" for name, part in groups]
    return f"Under {scheme} the median recovery of VerbMem is {' and '.join(parts)}."


def cost(single: pd.DataFrame, scheme: str) -> str:
    """What the scheme costs in utility (tables.utility); each model beside itself at full precision."""
    if not scheme:
        return "What quantization costs in utility can't be told: no scheme has shares or recovery by which it could be chosen."
    unlearned = single[~single.method.isin(tables.REFERENCES)]
    table = unlearned[unlearned.metric == tables.utility(unlearned)]
    called = f"{tables.TITLES['knowmem' if table.empty else table.kind.iloc[0]]} on the retain set"
    full, other = (table[table.scheme == name].set_index("run").value for name in ("full", scheme))
    change = (other - full).dropna()
    if change.empty:
        why = f"no unlearned model has {called} both at full precision and under {scheme}"
        return f"What quantization costs in utility can't be told: {why}."
    median = f"median of {counted(len(change), 'model')}"
    return f"{called} changes by {change.median():+.1f} points under {scheme} ({median})."
