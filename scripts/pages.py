"""One self-contained page of a sweep: findings, figures, continuations side by side, and every score with where it comes from.

Needs no network: styles, script, figures and numbers are in the file. Also writes the findings alone, for the report's front page.
"""

import argparse
import base64
import difflib
import html
import json
from pathlib import Path

from scripts.core import process
from scripts.core.analysis import findings, tables
from scripts.core.evaluation import rouge
from scripts.core.storage import read_json, write_text

TEMPLATE = Path(__file__).parent / "data" / "page.html"
CAPTIONS = Path(__file__).parents[1] / "workflow" / "report"
COLUMNS = ["corpus", "method", "regularizer", "lr", "weights", "setting", "checkpoint", "seed", "scheme", "metric"]
COLUMNS += ["value", "low", "high", "n", "status", "K", "R", "file", "computed", "commit", "versions"]
RUNS, PASSAGES = 6, 3  # of the continuations that are shown
FIRST = ("full_vs_quantized", "quantized_scatter", "recovery_heatmap", "precision_control", "forget_vs_utility")
SHOWN_VERSIONS = ("torch", "transformers", "bitsandbytes")


def rows(read: dict, results: Path) -> list[list]:
    """Every score as a row of COLUMNS: numbers or texts; the last four are the metric file and what it records of its making."""
    key = ["run", "checkpoint", "scheme", "metric"]
    back = read["recovery"].drop_duplicates(key).set_index(key)[["K", "R"]]
    made = []
    for row in read["scores"].join(back, on=key).to_dict("records"):
        file = f"{row['run']}/eval/{row['scheme']}/{row['metric']}.json"
        origin = {}
        if row["seed"] != tables.POOLED and (results / file).is_file():
            origin = read_json(results / file).get("provenance") or {}
        versions = origin.get("versions") or {}
        row |= {"file": file if origin else "", "computed": origin.get("ended", ""), "commit": (origin.get("commit") or "")[:10]}
        row["versions"] = " ".join(f"{name} {versions[name]}" for name in SHOWN_VERSIONS if name in versions)
        made.append([plain(row[name]) for name in COLUMNS])
    return made


def plain(value):
    """A value as the page's data hold it: numbers to three decimals, null where there is none."""
    if isinstance(value, float):
        return None if value != value else round(value, 3)
    return value


def marked(text: str, truth: str) -> str:
    """`text` as HTML, with the words marked that it has in common with `truth`, in order."""
    pieces = [(match.start(), match.end()) for match in rouge.WORD.finditer(text.lower())]
    ours = [text.lower()[a:b] for a, b in pieces]
    same = difflib.SequenceMatcher(None, rouge.words(truth), ours, autojunk=False).get_matching_blocks()
    hit = {i for block in same for i in range(block.b, block.b + block.size)}
    made, end = [], 0
    for i, (a, b) in enumerate(pieces):
        made.append(html.escape(text[end:a]))
        made.append(f"<mark>{html.escape(text[a:b])}</mark>" if i in hit else html.escape(text[a:b]))
        end = b
    return "".join(made) + html.escape(text[end:])


def continuations(read: dict, results: Path) -> str:
    """Tables of passages: target, unlearned, unlearned and quantized, truth; of the runs with the largest recovery of VerbMem."""
    back = read["recovery"]
    chosen = back[(back.kind == "verbmem") & (back.scheme != "full") & (back.seed != tables.POOLED) & (back.checkpoint == "")]
    chosen = chosen.sort_values("R", ascending=False, na_position="last").drop_duplicates("run").head(RUNS)
    made = []
    for row in chosen.itertuples():
        target = f"{row.corpus}/target"
        sources = ((target, "full"), (row.run, "full"), (row.run, row.scheme))
        files = [results / run / "eval" / scheme / f"{row.metric}.json" for run, scheme in sources]
        if not all(file.is_file() for file in files):
            continue
        parts = [read_json(file).get("samples") or [] for file in files]
        gain = f", R = {100 * row.R:z.0f} %" if row.R == row.R else ""
        made.append(f"<h3>{html.escape(row.run)} under {html.escape(row.scheme)}{gain}</h3><table class=texts><tr><th>prompt")
        made.append(f"<th>target, full<th>unlearned, full<th>unlearned, {html.escape(row.scheme)}<th>truth</tr>")
        for one in list(zip(*parts, strict=False))[:PASSAGES]:
            said = "".join(f"<td>{marked(sample['response'], sample['gt'])}" for sample in one)
            made.append(f"<tr><td>{html.escape(one[0]['prompt'][-200:])}{said}<td>{html.escape(one[0]['gt'])}</tr>")
        made.append("</table>")
    return "\n".join(made) or "<p>No run has continuations of forget passages.</p>"


def figures(paths: list[Path]) -> str:
    """Figures with their captions, what was found before why; pictures are part of the page. Empty ones are named at the end."""
    from docutils.core import publish_parts

    from scripts.core.analysis.style import EMPTY

    made, empty = [], []
    for path in sorted(paths, key=lambda path: FIRST.index(path.stem) if path.stem in FIRST else len(FIRST)):
        if f'id="{EMPTY}"'.encode() in path.read_bytes():
            empty.append(html.escape(path.stem))
            continue
        caption = CAPTIONS / f"{path.stem}.rst"
        text = publish_parts(caption.read_text(encoding="utf-8"), writer="html")["fragment"] if caption.is_file() else ""
        picture = base64.b64encode(path.read_bytes()).decode()
        name = html.escape(path.stem)
        made.append(f'<figure id="{name}"><img alt="{name}" src="data:image/svg+xml;base64,{picture}">')
        made.append(f"<figcaption>{text}</figcaption></figure>")
    made += [f"<p>This sweep has nothing to draw for: {', '.join(empty)}.</p>"] if empty else []
    return "\n".join(made)


def page(read: dict, results: Path, pictures: list[Path]) -> tuple[str, list[str]]:
    """The page as HTML, and its findings."""
    found = findings.sentences(read["scores"], read["recovery"])
    # "</" would end the script element.
    data = json.dumps({"columns": COLUMNS, "rows": rows(read, results)}, ensure_ascii=False).replace("</", "<\\/")
    parts = {
        "FINDINGS": "".join(f"<li>{html.escape(one)}</li>" for one in found),
        "FIGURES": figures(pictures),
        "TEXTS": continuations(read, results),
        "DATA": data,
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    return text, found


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.pages", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="folder of the runs, scores.csv and recovery.csv"
    )
    parser.add_argument("--figures", type=Path, nargs="*", default=[], metavar="SVG", help="figures (SVG files) of the page")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of results.html and findings.txt")
    options = parser.parse_args(argv)
    text, found = page(tables.read(options.results), options.results, options.figures)
    write_text(options.out / "results.html", text)
    write_text(options.out / "findings.txt", "".join(f"{one}\n" for one in found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
