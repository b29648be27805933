"""A run's model as an ordinary Hugging Face folder, which `from_pretrained` loads; weights may be kept whole or as a difference.

usage: python -m scripts.export RUN OUT

The weights are those that outcome.json names: their digest is compared. Quantized models are not exported: those that are
files lie in RUN/quantized/<scheme> in their library's own layout, the others are made in memory.
"""

import argparse
from pathlib import Path

from scripts.core import process, storage


def export(run: Path, out: Path, as_stored: bool = False) -> str | None:
    """Write the model of a run folder to the new folder `out`; returns the digest of its weights, None without any.

    as_stored: also what is no model by itself, a diverged run's folder without weights or a pair of models. ValueError for
    those otherwise, and for a run that is not finished.
    """
    if not (run / "outcome.json").is_file() or not (run / "checkpoint").is_dir():
        raise ValueError(f"RUN: {str(run)!r} has no outcome.json or no checkpoint; allowed: the folder of a finished run")
    if out.is_dir() and any(out.iterdir()) or out.is_file():
        raise ValueError(f"OUT: {str(out)!r} exists; allowed: a new folder")
    outcome = storage.read_json(run / "outcome.json")
    if not isinstance(outcome, dict) or not {"status", "weights", "step"} <= set(outcome):
        raise ValueError(f"RUN: {str(run)!r} has an outcome.json without status, weights and step; allowed: a finished run")
    if outcome["status"] != "done" and not as_stored:
        raise ValueError(
            f"RUN: {str(run)!r} {outcome['status']} at step {outcome['step']} and has no weights; allowed: another run"
        )
    if (run / "checkpoint" / "pair.json").exists() and not as_stored:
        raise ValueError(
            f"RUN: {str(run)!r} is made of two models, which no ordinary folder holds; allowed: --as-stored, which writes both"
        )
    from scripts.core.weights import checkpoints, models

    with storage.whole_folder(out) as folder:
        checkpoints.restore(run / "checkpoint", folder)
        weights = models.weights_digest(folder) if outcome["status"] == "done" else None
        if weights != outcome["weights"]:
            raise ValueError(f"RUN: the weights of {str(run)!r} are not those of its outcome.json; allowed: a run as it was stored")
    return weights


@process.guarded
def main(argv=None) -> int:
    """Run the command line; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder: outcome.json, checkpoint/")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder that is written")
    parser.add_argument("--as-stored", action="store_true", help="also the empty folder of a diverged run, or a pair of models")
    options = parser.parse_args(argv)
    weights = export(options.run, options.out, options.as_stored)
    print(f"{options.out}: weights {weights or 'none'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
