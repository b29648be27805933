"""A tiny run, its corpus and scheme files, evaluated; and how tests of the evaluation program read and change its files."""

import json

from scripts import evaluate
from scripts.core.storage import write_json

METRICS = {
    "verbmem_f": {"kind": "verbmem", "split": "forget", "new_tokens": 6},
    "knowmem_r": {"kind": "knowmem", "split": "retain", "new_tokens": 4, "shots": 2},
    "privleak": {"kind": "privleak"},
}
SCHEMES = {"full": {"kind": "full"}, "rtn_int4": {"kind": "rtn", "bits": 4, "granularity": "tensor"}}


def build(folder):
    """Write corpus/, run/ and a scheme file per scheme below `folder`, and evaluate them; returns the folder."""
    from scripts.core.registry import defaults
    from scripts.core.weights.models import build_model, build_tokenizer, save_checkpoint
    from scripts.corpora import synthetic

    people = {"forget_people": 3, "retain_people": 6, "retain2_people": 2, "holdout_people": 3, "pretrain_people": 0}
    synthetic.build(defaults("corpora", "synthetic") | people | {"asked_people": 3, "examples": 2}, folder / "corpus" / "data")
    write_json(folder / "corpus" / "manifest.json", {"files": "digest"})
    texts = json.loads((folder / "corpus/data/raw/retain1.json").read_text())
    tokenizer = build_tokenizer(texts, 320, 512)
    model = build_model({"hidden": 32, "layers": 2, "heads": 2, "positions": 512}, tokenizer)
    save_checkpoint(model, tokenizer, folder / "run" / "checkpoint")
    write_json(folder / "run" / "outcome.json", {"status": "done", "weights": "abc", "step": 4})
    for name, scheme in SCHEMES.items():
        content = {"corpus": {"name": "people"}, "scheme": {"name": name, **scheme}, "metrics": METRICS, "batch_tokens": 2048}
        write_json(folder / f"{name}.json", content)
    assert run(folder, "full", "rtn_int4") == 0
    return folder


def run(folder, *schemes) -> int:
    files = [str(folder / f"{name}.json") for name in schemes]
    return evaluate.main(["--run", str(folder / "run"), "--corpus", str(folder / "corpus"), "--device", "cpu", "--schemes", *files])


def read(folder, scheme, metric):
    return json.loads((folder / "run" / "eval" / scheme / f"{metric}.json").read_text())


def change(folder, name, **entries):
    path = folder / name
    write_json(path, json.loads(path.read_text()) | entries)


def states(folder):
    """Bytes of all metric files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "run" / "eval").rglob("*")) if path.is_file()
    }


def changed(before, after):
    return {name for name in after if after[name] != before.get(name)}
