"""The table of all measures as Markdown."""

HEADER = "| measure | baseline | ours | ratio | spread |\n| --- | --- | --- | --- | --- |"
ABOUT = """Both sides do the same work in one process, in turn (A B, B A, …); numbers are medians over the pairs. Ratio:
how many times less time or memory ours takes (for rates: how many times more it does), the median of the pairs' ratios; spread: the
smallest and the largest of them. Where a measure gives scores or losses, both sides' are compared and must agree."""


def number(value) -> str:
    """Three significant digits, plain."""
    if value is None:
        return "–"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.2g}"


def line(row) -> str:
    """A row of the table."""
    unit = f" {row.unit}" if row.unit else ""
    values = [number(value) + (unit if value is not None else "") for value in (row.baseline, row.ours)]
    ratio = "–" if row.ratio is None else f"{row.ratio:.2f}×"
    spread = f"{row.low:.2f}–{row.high:.2f}" if row.low is not None else "–"
    note = f" ({row.note})" if row.note else ""
    return f"| {row.measure}{note} | {values[0]} | {values[1]} | {ratio} | {spread} |"


def page(found: list[dict], facts: dict) -> str:
    """The whole page: facts, one table, what each measure compares."""
    hardware = facts["hardware"]
    where = hardware["gpus"][0] if facts["device"] == "cuda" and hardware.get("gpus") else hardware["processor"]
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "transformers") if name in facts["versions"])
    command = (
        "make bench"
        if (facts["size"], facts["device"]) == ("demo", "cpu")
        else (f"python -m benchmarks --size {facts['size']} --device {facts['device']}")
    )
    parts = [
        f"# Against the published code's way: `{command}`",
        f"Model: {facts['size']} (benchmarks/sizes.py). {where}, {facts['threads']} thread(s), {versions}. "
        f"{facts['pairs']} pairs unless said, {facts['minutes']:.1f} minutes in all, ended {facts['ended']}.",
        ABOUT,
    ]
    tables = list(dict.fromkeys(row.table for entry in found for row in entry["rows"]))
    for heading in sorted(tables, key=bool):  # the main table first
        rows = [line(row) for entry in found for row in entry["rows"] if row.table == heading]
        parts += ([f"## {heading}"] if heading else []) + ["\n".join([HEADER, *rows])]
    failed = [f"- **{entry['name']} failed**: {entry['error']}" for entry in found if "error" in entry]
    about = [f"- `{entry['name']}` ({entry['seconds']:.0f} s): {entry['about']}" for entry in found]
    return "\n\n".join([*parts, "\n".join([*failed, *about])]) + "\n"
