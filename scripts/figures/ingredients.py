"""One ingredient at a time: how far each change of a setting forgets at full precision, and how much a scheme then gives back.

The centre of a family (method, regularizer) is the cell from which most of its other cells differ in one ingredient; each
row names what its cell changes. Steps and epochs are no ingredients: they follow from how fast a setting forgets.
"""

from scripts.core.analysis import columns, style, tables
from scripts.core.analysis.recovery import LEAD
from scripts.figures import _layout as layout
from scripts.figures import _panels as panels

TABLES = ["scores", "recovery"]
LENGTHS = ("max_steps", "epochs", "warmup")
NAMES = {"alpha": "α", "saliency": "mask"}
UNUSED = {"saliency": "none", "parameters": "full"}  # what an empty entry of a key means that specs leave out at its default


def draw(tables_):
    """Figure of both tables; rows are cells, left the forget score at full precision, right R per scheme (%)."""
    scores, table = tables_["scores"], panels.unlearned(tables_["recovery"])
    metrics = panels.forget_metrics(table)[:1]
    table = table[table.metric.isin(metrics)]
    schemes = [name for name in tables.schemes(table) if name != "full"]
    keys = ingredients(table)
    families = {name: rows for name, rows in grouped(table, keys).items() if len(rows) > 1}
    if not families or not schemes:
        return style.empty(panels.NOTHING.format("no two settings of one method and regularizer to compare"))
    metric, known = metrics[0], panels.references(scores)
    heights = [0.24 * len(rows) + 0.3 for rows in families.values()]
    figure = style.figure(style.TEXT, sum(heights) + 1.1)
    axes = figure.subplots(len(families), 2, squeeze=False, sharex="col", height_ratios=heights, width_ratios=[1, 2])
    looks = style.look(schemes)
    for (left, right), ((corpus, family), rows) in zip(axes, families.items(), strict=True):
        forgotten(left, rows, known.get((corpus, "target", metric, "full")), known.get((corpus, "retrain", metric, "full")))
        recovered(right, rows, looks)
        left.set_title(f"{corpus}: {family}" if len({c for c, _ in families}) > 1 else family, loc="left")
        left.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes[-1][0].set_xlabel(f"{tables.title(scores, metric)}\nat full precision (×100)")
    axes[-1][1].set_xlabel(f"recovery R of {tables.title(scores, metric)} (%)")
    handles = [style.handle(name, **look) for name, look in looks.items()]
    style.legend(figure, [*handles, style.handle("target, retrain (left)", color=style.GREY, linestyle="-")])
    style.note(figure, [panels.whiskers(table), *outside(families)])
    return figure


def ingredients(table) -> list[str]:
    """Columns that hold ingredients: lr, precisions, and every axis that is not a length."""
    own = [name for name in table.columns if name not in (*columns.RECOVERY, *LENGTHS)]
    return ["lr", "weights", "moments", *own]


def grouped(table, keys) -> dict:
    """{(corpus, family): [(label, {scheme: row})]}: the centre first, then the others in their order."""
    cells, found = {}, {}
    for row in table.itertuples():
        cells.setdefault(tables.key(row), {})[row.scheme] = row
    for key, rows in cells.items():
        settings = {name: value(getattr(next(iter(rows.values())), name), name) for name in keys}
        found.setdefault((key.corpus, key.family), []).append((settings, rows))
    return {name: labelled(members) for name, members in found.items()}


def value(raw, name: str) -> str:
    """A setting as text; what a spec leaves out is its default."""
    return UNUSED.get(name, "") if raw is None or raw != raw or raw == "" else str(raw)


def labelled(members) -> list:
    """Members of a family named by what each changes of the centre, the member with most neighbours at one change."""

    def changes(one, other):
        ignored = {"percentile", "sure_double"} if "none" in (one.get("saliency"), other.get("saliency")) else set()
        return [name for name in one if name not in ignored and one[name] != other[name]]

    centre = max(members, key=lambda member: sum(len(changes(member[0], other[0])) == 1 for other in members))
    rest = [member for member in members if member is not centre]
    words = [", ".join(word(name, own) for name in changes(own, centre[0])) or "other length" for own, _ in rest]
    first = f"centre: lr {centre[0]['lr']}, {centre[0]['weights']}"
    return [(first, centre[1]), *((word, rows) for word, (_, rows) in zip(words, rest, strict=True))]


def word(name: str, settings: dict) -> str:
    """An ingredient with its value; a mask with its percentile."""
    text = f"{NAMES.get(name, name)} {settings[name] or '–'}"
    masked = name == "saliency" and settings[name] != UNUSED["saliency"] and settings.get("percentile")
    return f"{text} P{float(settings['percentile']):g}" if masked else text


def forgotten(axis, rows, *references) -> None:
    """The forget score at full precision of each row, with target and retrain as lines."""
    full = [(y, cells.get("full")) for y, (_, cells) in enumerate(rows)]
    full = [(y, row) for y, row in full if row is not None and row.unlearned == row.unlearned]
    axis.plot([row.unlearned for _, row in full], [y for y, _ in full], "o", color=style.INK, label="_full")
    for row in references:
        if row is not None:
            axis.axvline(row.value, color=style.GREY, linewidth=0.8)
    axis.set_xlim(-4, 104)
    axis.set_ylim(len(rows) - 0.5, -0.5)


def recovered(axis, rows, looks) -> None:
    """R of each row under each scheme, whiskers cut at the panel's edge; a word where R is undefined under all of them."""
    axis.axvline(0, color=style.INK, linewidth=0.6)
    axis.axvline(100, color=style.PALE, linewidth=0.6)
    for shift, (scheme, look) in zip(layout.offsets(len(looks)), looks.items(), strict=True):
        here = [(y + shift, cells.get(scheme)) for y, (_, cells) in enumerate(rows)]
        here = [(y, row) for y, row in here if panels.recovers(row)]
        axis.errorbar(
            [100 * row.R for _, row in here], [y for y, _ in here], xerr=panels.recovery_arms([row for _, row in here]), **look,
            markersize=3, elinewidth=0.5, linestyle="none", label=f"_{scheme}",
        )  # fmt: skip
    for y, (_, cells) in enumerate(rows):
        others = [row for scheme, row in cells.items() if scheme != "full"]
        if others and not any(panels.recovers(row) for row in others):
            little = all(LEAD in row.R_reason for row in others)
            word = "too little forgotten to tell" if little else others[0].R_reason.split(":")[0] or others[0].status
            axis.text(2, y, word, va="center", color=style.GREY, fontsize=style.SMALL)
    axis.set_xlim(-110, 150)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_yticks(range(len(rows)), [""] * len(rows))


def outside(families) -> list[str]:
    """Names the cells whose R lies beyond the panel."""
    return [
        f"{family}, {label}: R under {scheme} is {100 * row.R:.0f} %, outside the panel"
        for (_, family), rows in families.items()
        for label, cells in rows
        for scheme, row in cells.items()
        if panels.recovers(row) and not -1.1 <= row.R <= 1.5
    ]
