"""What quantization gives back: K and R of a cell, beside its full precision and the target under its scheme.

K_s = M_s(unlearned) / M_s(target): the share of the target's knowledge that the unlearned model shows under scheme s.
R_s = (M_s(unlearned) − M_full(unlearned)) / (M_s(target) − M_full(unlearned)): the share of what was forgotten that
  scheme s gives back.
Of a perplexity M is −NLL, the log-likelihood per token, and there is R alone: a log-likelihood has no zero for K.
"""

from scripts.core import registry, statistics, tables


def tells_recovery(row: dict) -> bool:
    """Whether a metric says what is known of the forget set: its file says `RECOVERED = True`, and it reads that split."""
    known = row["kind"] in registry.names("metrics")
    return known and row["split"] == "forget" and registry.constants("metrics", row["kind"]).get("RECOVERED", False)


def rows(loaded: list[dict]) -> list[dict]:
    """Rows of K and R for every unlearned run (and pool of seeds), scheme, and metric that tells recovery."""
    return [row_of(*parts) for parts in matched(loaded)]


def matched(loaded: list[dict]):
    """(cell, its full precision, the target under its scheme) of every cell of which recovery is told; None where absent."""
    cells = {(c["row"]["run"], c["row"]["checkpoint"], c["row"]["scheme"], c["row"]["metric"]): c for c in loaded}
    targets = {}
    for cell in loaded:
        row = cell["row"]
        if row["method"] == "target" and (
            row["seed"] == tables.POOLED or (row["corpus"], row["scheme"], row["metric"]) not in targets
        ):
            targets[row["corpus"], row["scheme"], row["metric"]] = cell
    for cell in loaded:
        row = cell["row"]
        if row["method"] not in tables.REFERENCES and tells_recovery(row):
            full = cells.get((row["run"], row["checkpoint"], "full", row["metric"]))
            yield cell, full, targets.get((row["corpus"], row["scheme"], row["metric"]))


def row_of(cell: dict, full: dict | None, target: dict | None) -> dict:
    """K and R of one cell; each is empty with a reason where it can't be told."""
    row = {name: value for name, value in cell["row"].items() if name not in ("value", "low", "high", "reason")}
    row |= {"unlearned": cell["row"]["value"], "interval": ""}
    row["unlearned_full"] = full["row"]["value"] if full else None
    row["target"] = target["row"]["value"] if target else None
    scheme = cell["row"]["scheme"]
    reason_k = lacking(("the unlearned run", cell), (f"the target under {scheme}", target))
    reason_r = reason_k or lacking(("the unlearned run at full precision", full))
    if not reason_k:
        row |= dict(zip(("K", "K_low", "K_high", "K_reason"), retained(cell, target), strict=True))
    if not reason_r:
        row |= dict(zip(("R", "R_low", "R_high", "R_reason"), recovered(cell, full, target), strict=True))
    if row.get("K") is not None or row.get("R") is not None:
        row["interval"] = cell["row"]["interval"]
    row.setdefault("K_reason", reason_k)
    row.setdefault("R_reason", reason_r)
    return row


def lacking(*parts: tuple[str, dict | None]) -> str:
    """Why a ratio can't be formed from these cells; empty if it can."""
    for name, cell in parts:
        if cell is None:
            return f"missing: {name} is not in the sweep"
        if cell["value"] is None:
            return f"{cell['row']['status']}: {name} ({cell['row']['reason']})"
        if cell["replicates"] is None:
            return f"undefined: {name} has no per-sample scores ({cell['row']['reason']})"
    names = " and ".join(name for name, _ in parts)
    if len({cell["row"]["n"] for _, cell in parts}) > 1:
        return f"undefined: {names} were scored on different numbers of samples"
    if any(cell["units"] != parts[0][1]["units"] for _, cell in parts):
        return f"undefined: {names} were scored on samples of different units"
    return ""


def retained(cell: dict, target: dict):
    """(K, low, high, reason)."""
    if cell["row"]["kind"] == "perplexity":
        return None, None, None, "undefined: a log-likelihood has no zero from which a share could be taken"
    return statistics.ratio(cell["value"], target["value"], cell["replicates"], target["replicates"], "the target's score")


def recovered(cell: dict, full: dict, target: dict):
    """(R, low, high, reason); undefined where the target under the scheme is not clearly above u at full precision."""
    if cell["row"]["n"] != full["row"]["n"]:
        return None, None, None, "undefined: full precision was scored on another number of samples"
    if cell["units"] != full["units"]:
        return None, None, None, "undefined: full precision was scored on samples of other units"
    if [c["row"]["seed"] for c in cell.get("seeds", [])] != [c["row"]["seed"] for c in full.get("seeds", [])]:
        return None, None, None, "undefined: full precision has values for other seeds"
    nats = cell["row"]["kind"] == "perplexity"
    name = "target under the scheme minus unlearned at full precision"
    name += ", in nats per token," if nats else ""
    return statistics.ratio(*gains(cell, full, target), name, unit=1 if nats else 100)


def gains(cell: dict, full: dict, target: dict) -> tuple:
    """(what came back, what there was to come back, and their replicates) in the unit of M."""
    sign = -1 if cell["row"]["kind"] == "perplexity" else 1  # an NLL falls as knowledge comes back
    values = [sign * (one["value"] - full["value"]) for one in (cell, target)]
    return *values, *(sign * (one["replicates"] - full["replicates"]) for one in (cell, target))
