"""Published scores (scripts/data/published_scores.csv), the rows of a sweep that they belong to, and the share that is retained.

Sources: tables 1 and 3 of Zhang et al., arXiv 2410.16454, and an independent reproduction (October 2026). `saliency` tells SURE's
variants apart: module as in the paper, row-fixed, and released, the published code, which applies no mask.
"""

from pathlib import Path

import pandas as pd

from scripts.core.analysis import tables

FILE = Path(__file__).parents[2] / "data" / "published_scores.csv"
METRICS = ("verbmem_f", "knowmem_f", "privleak", "knowmem_r", "gen", "tru", "fac", "flu")
KEY = ("corpus", "method", "regularizer", "saliency", "scheme")
# The schemes of a sweep that stand for a published one, by falling preference. The published code's 4 bits are FP4.
SCHEMES = {
    "full": ("full",),
    "bf16": ("full",),
    "8bit": ("bnb_int8",),
    "4bit": ("bnb_fp4",),
    "gptq_int4_g128": ("gptq_int4_g128", "gptq"),
    "awq_int4_g128": ("awq_int4_g128", "awq"),
}
PRECISIONS = "arXiv 2410.16454, table 1"


def published() -> pd.DataFrame:
    """The published scores: KEY and source as text, METRICS as floats, NaN where nothing was published."""
    table = pd.read_csv(FILE, dtype=str, keep_default_na=False)
    for name in METRICS:
        table[name] = pd.to_numeric(table[name]).astype(float)
    return table


def column(row) -> str | None:
    """Which of METRICS a row of scores.csv is, or None. Utility is known by the metric's name: gen, tru, fac."""
    if row.kind in ("verbmem", "knowmem"):
        name = f"{row.kind}_{row.split[:1]}"
    elif row.kind == "lm_eval":
        name = row.metric
    else:
        name = {"privleak": "privleak", "fluency": "flu"}.get(row.kind)
    return name if name in METRICS else None


def wide(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with one row per cell: KEY, setting, METRICS (NaN where there is no value) and why (of the first that has none).

    Seeds are pooled. Where several metrics are of one kind and split, the first counts.
    """
    found = {}
    for row in tables.cells(scores[scores.checkpoint == ""]).itertuples():  # the last checkpoint of each run
        name = column(row)
        if name is None:
            continue
        saliency = getattr(row, "saliency", "")
        key = (row.corpus, row.method, row.regularizer, "" if saliency in ("", "none") else saliency, row.scheme, row.setting)
        cell = found.setdefault(key, {})
        if name not in cell:
            cell[name] = row.value
            if row.value != row.value:
                cell.setdefault("why", row.status)
    lines = [dict(zip((*KEY, "setting"), key, strict=True)) | cell for key, cell in found.items()]
    return pd.DataFrame(lines, columns=[*KEY, "setting", *METRICS, "why"]).fillna({"why": ""}).astype(dict.fromkeys(METRICS, float))


def ours(name: str, schemes, chosen: dict) -> str:
    """The scheme of a sweep (of `schemes`) that stands for the published scheme `name`; `chosen` overrides SCHEMES."""
    candidates = (chosen[name],) if name in chosen else SCHEMES.get(name, (name,))
    return next((one for one in candidates if one in schemes), candidates[0])


def beside(scores: pd.DataFrame, sources: tuple[str, ...], chosen: dict | None = None) -> pd.DataFrame:
    """Scores of a sweep beside the published ones of `sources`: KEY, setting, and value, published, difference of each metric.

    Rows are the published cells of the corpora that the sweep has (several where a cell was run in several settings), then the
    cells of the sweep that were not published. A row of the sweep without a counterpart has empty published columns and vice versa.
    """
    table, chosen = wide(scores), chosen or {}
    theirs = published()
    theirs = theirs[theirs.source.isin(sources) & theirs.corpus.isin(set(table.corpus))]
    place = {name: i for i, name in enumerate(dict.fromkeys(theirs.corpus))}
    theirs = theirs.sort_values("corpus", key=lambda names: names.map(place), kind="stable")
    present, rows, used = set(table.scheme), [], set()
    for row in theirs.to_dict("records"):
        scheme = ours(row["scheme"], present, chosen)
        key = tuple(row[name] for name in KEY[:-1]) + (scheme,)
        same = table[(table[list(KEY)] == key).all(axis=1)]
        used |= set(same.index)
        for cell in same.to_dict("records") or [dict.fromkeys(METRICS, float("nan")) | {"setting": "", "why": "missing"}]:
            rows.append(line(dict(zip(KEY, key, strict=True)), row["scheme"], cell, row))
    for index, cell in table.iterrows():
        if index not in used:
            rows.append(line({name: cell[name] for name in KEY}, "", cell, {}))
    return pd.DataFrame(rows)


def line(key: dict, scheme: str, cell, row: dict) -> dict:
    """One row of `beside`."""
    found = key | {"published_scheme": scheme, "setting": cell["setting"], "source": row.get("source", ""), "why": cell["why"]}
    for name in METRICS:
        other = row.get(name, float("nan"))
        found |= {name: cell[name], f"{name}_published": other, f"{name}_difference": cell[name] - other}
    return found


def published_recovery() -> pd.DataFrame:
    """Table 1's forget scores in the form of recovery.csv: corpus, method, regularizer, scheme, metric, unlearned, target."""
    table = published()
    table = table[table.source == PRECISIONS]
    long = table.melt(list(KEY), ["verbmem_f", "knowmem_f"], "metric", "unlearned")
    at = ["corpus", "scheme", "metric"]
    target = long[long.method == "target"].set_index(at).unlearned.rename("target")
    return long[~long.method.isin(tables.REFERENCES)].join(target, on=at).assign(setting="", kind=long.metric.str[:-2])


def retained(recovery: pd.DataFrame, full: str = "full") -> pd.DataFrame:
    """What share of the target's forget scores models with a utility constraint still show, at full precision and per scheme.

    Cells: method × corpus × {VerbMem, KnowMem on the forget set} of runs with a regularizer (without SURE's mask, whose place is
    the cure) that have a value under both. Seeds are pooled. `share` = Σ M(unlearned) / Σ M(target), sums over cells, the target
    under the same scheme; `mean` is the mean of the cells' own ratios (K). In %, with the number of cells and of those left out.
    """
    names = [tables.metric(recovery, kind) for kind in ("verbmem", "knowmem")]  # the first of each kind
    table = recovery[recovery.metric.isin(names) & (recovery.regularizer != "none")]
    if "saliency" in table:
        table = table[table.saliency.isin(["", "none"])]
    if "seed" in table:  # a sweep's own: pooled, and the last checkpoint of each run
        table = tables.cells(table[table.checkpoint == ""])
    at, rows = ["corpus", "method", "regularizer", "setting", "metric"], []
    both = table[table.scheme == full].set_index(at)[["unlearned", "target"]]
    for scheme in [name for name in dict.fromkeys(table.scheme) if name != full]:
        cells = table[table.scheme == scheme].set_index(at)[["unlearned", "target"]].join(both, rsuffix="_full", how="outer")
        usable = cells.dropna()[lambda one: (one.target > 0) & (one.target_full > 0)]
        if usable.empty:
            continue
        row = {"scheme": scheme, "cells": len(usable), "left_out": len(cells) - len(usable)}
        for name, end in (("full", "_full"), ("quantized", "")):
            top, bottom = usable["unlearned" + end], usable["target" + end]
            row |= {f"share_{name}": 100 * top.sum() / bottom.sum(), f"mean_{name}": 100 * (top / bottom).mean()}
        rows.append(row)
    columns = ["scheme", "cells", "left_out", "share_full", "share_quantized", "mean_full", "mean_quantized"]
    return pd.DataFrame(rows, columns=columns)
