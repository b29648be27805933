"""What quantization gives back: K and R of a score, beside full precision's and the target's under the same scheme.

K_s = M_s(unlearned) / M_s(target): the share of the target's knowledge that the unlearned model shows under scheme s.
R_s = (M_s(unlearned) − M_full(unlearned)) / (M_s(target) − M_full(unlearned)): the share of what was forgotten that
  scheme s gives back.
Of a perplexity M is −NLL, the log-likelihood per token, and there is R alone: a log-likelihood has no zero for K.
"""

from scripts.core import registry
from scripts.core.analysis import statistics, tables
from scripts.core.analysis.scored import Score

LEAD = "target under the scheme minus unlearned at full precision"  # the denominator of R, as reasons call it


def tells_recovery(row: dict) -> bool:
    """Whether a metric says what is known of the forget set: its file says `RECOVERED = True`, and it reads that split."""
    known = row["kind"] in registry.names("metrics")
    return known and row["split"] == "forget" and registry.constants("metrics", row["kind"]).get("RECOVERED", False)


def rows(scores: list[Score]) -> list[dict]:
    """Rows of K and R for every unlearned run (and pool of seeds), scheme, and metric that tells recovery."""
    return [row_of(*parts) for parts in matched(scores)]


def matched(scores: list[Score]):
    """(score, its full precision, the target under its scheme) of every score of which recovery is told; None where absent."""
    known = {(s.row["run"], s.row["checkpoint"], s.row["scheme"], s.row["metric"]): s for s in scores}
    targets = {(s.row["corpus"], s.row["scheme"], s.row["metric"]): s for s in scores if s.row["method"] == "target"}
    for score in scores:
        row = score.row
        if row["method"] not in tables.REFERENCES and tells_recovery(row):
            full = known.get((row["run"], row["checkpoint"], "full", row["metric"]))
            yield score, full, targets.get((row["corpus"], row["scheme"], row["metric"]))


def row_of(score: Score, full: Score | None, target: Score | None) -> dict:
    """K and R of one score; each is empty with a reason where it can't be told."""
    row = {name: value for name, value in score.row.items() if name not in ("value", "low", "high", "reason")}
    row |= {"unlearned": score.row["value"], "interval": ""}
    row["unlearned_full"] = full.row["value"] if full else None
    row["target"] = target.row["value"] if target else None
    reason_k = lacking(("the unlearned run", score), (f"the target under {score.row['scheme']}", target))
    reason_r = reason_k or lacking(("the unlearned run at full precision", full))
    if not reason_k:
        row |= dict(zip(("K", "K_low", "K_high", "K_reason"), retained(score, target), strict=True))
    if not reason_r:
        row |= dict(zip(("R", "R_low", "R_high", "R_reason"), recovered(score, full, target), strict=True))
    if row.get("K") is not None or row.get("R") is not None:
        row["interval"] = score.row["interval"]
    row.setdefault("K_reason", reason_k)
    row.setdefault("R_reason", reason_r)
    return row


def lacking(*parts: tuple[str, Score | None]) -> str:
    """Why a ratio can't be formed from these scores (with their names); empty if it can."""
    for name, score in parts:
        if score is None:
            return f"missing: {name} is not in the sweep"
        if score.value is None:
            return f"{score.row['status']}: {name} ({score.row['reason']})"
        if score.replicates is None:
            return f"undefined: {name} has no per-sample scores ({score.row['reason']})"
    names = " and ".join(name for name, _ in parts)
    if len({score.row["n"] for _, score in parts}) > 1:
        return f"undefined: {names} were scored on different numbers of samples"
    if any(score.units != parts[0][1].units for _, score in parts):
        return f"undefined: {names} were scored on samples of different units"
    return ""


def retained(score: Score, target: Score):
    """(K, low, high, reason)."""
    if score.row["kind"] == "perplexity":
        return None, None, None, "undefined: a log-likelihood has no zero from which a share could be taken"
    return statistics.ratio(score.value, target.value, score.replicates, target.replicates, "the target's score")


def recovered(score: Score, full: Score, target: Score):
    """(R, low, high, reason); undefined where the target under the scheme is not clearly above u at full precision."""
    if score.row["n"] != full.row["n"]:
        return None, None, None, "undefined: full precision was scored on another number of samples"
    if score.units != full.units:
        return None, None, None, "undefined: full precision was scored on samples of other units"
    if [one.row["seed"] for one in score.seeds] != [one.row["seed"] for one in full.seeds]:
        return None, None, None, "undefined: full precision has values for other seeds"
    nats = score.row["kind"] == "perplexity"
    name = LEAD + (", in nats per token," if nats else "")
    return statistics.ratio(*gains(score, full, target), name, unit=1 if nats else 100)


def gains(score: Score, full: Score, target: Score) -> tuple:
    """(what came back, what there was to come back, and their replicates) in the unit of M."""
    sign = -1 if score.row["kind"] == "perplexity" else 1  # an NLL falls as knowledge comes back
    values = [sign * (one.value - full.value) for one in (score, target)]
    return *values, *(sign * (one.replicates - full.replicates) for one in (score, target))
