"""Build a corpus: its files in the MUSE layout, and a manifest with the digest of each.

Later jobs depend on the manifest, not on the folder: it is small and changes exactly when a byte of the corpus does.
"""

import argparse
from pathlib import Path

from scripts.core import process, registry
from scripts.core.planning import calibration
from scripts.core.storage import digest, file_digest, read_json, whole_folder, write_json


def build(spec: dict, out, demands: str = "") -> dict:
    """Write out/data and then out/manifest.json; return the manifest. ValueError for a spec that is not a corpus's, or
    for text that is too short for a calibration set (`demands`: calibration.demands).
    """
    settings = spec.get("corpus") if isinstance(spec, dict) else None
    if not isinstance(settings, dict) or "kind" not in settings:
        raise ValueError(f"spec: {str(spec)[:80]!r} has no corpus with a kind; allowed: {{corpus: {{kind: …}}}}")
    kind = registry.require("corpora", settings["kind"], "corpus.kind")
    settings = registry.defaults("corpora", kind) | settings
    plugin = registry.load("corpora", kind)
    plugin.check(settings)
    out = Path(out)
    # A manifest beside other data would be a lie: it goes first and comes back last.
    (out / "manifest.json").unlink(missing_ok=True)
    with whole_folder(out / "data") as folder:
        plugin.build(settings, folder)
    calibration.check_demands(demands, out)
    files = {
        path.relative_to(out / "data").as_posix(): {"sha256": file_digest(path), "items": len(read_json(path))}
        for path in sorted((out / "data").rglob("*.json"))
    }
    manifest = {"spec": digest(spec), "files": files}
    write_json(out / "manifest.json", manifest)
    return manifest


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. A spec that is wrong ends with one line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.build_corpus",
        description="Build the corpus that a spec describes: DIR/data holds raw, verbmem, knowmem and privleak as JSON "
        "lists (the MUSE layout), DIR/manifest.json the SHA-256 and the number of items of each file. Equal specs give "
        "equal bytes.",
    )
    parser.add_argument("--spec", required=True, metavar="FILE", help='JSON: {"stage": "corpus", "corpus": {"kind": …}}')
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the corpus; data/ in it is replaced")
    parser.add_argument("--calibration", default="", metavar="SETS", help="what schemes ask of the text: NAME=SET:SAMPLESxLENGTH,…")
    arguments = parser.parse_args(argv)
    manifest = build(read_json(arguments.spec), arguments.out, arguments.calibration)
    for name, entry in manifest["files"].items():
        print(f"{arguments.out}/data/{name}: {entry['items']} items")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
