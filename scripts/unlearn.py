"""Unlearn the forget set: a method and a regularizer, in a chosen precision of weights and moments.

usage: python -m scripts.unlearn --spec RUN/spec.json --corpus CORPUS --target TARGET_RUN [--reinforced RUN] --out RUN

A run whose loss or gradient is not finite is an outcome too: status "diverged" with the step, exit code 0, no
weights. The exit code is 75 or 143 when a signal cut training off: start it again to go on. Methods that are arithmetic
on checkpoints (task_vector, whp) train nothing and read the reinforced model, too.
"""

from pathlib import Path

from scripts.core import process, registry
from scripts.core.planning import combinations
from scripts.core.provenance import Provenance
from scripts.core.training import runs
from scripts.core.training.objective import Part


def arithmetic(spec, options, provenance) -> int:
    """A method that combines the checkpoints of target and reinforced model."""
    method = Part.of("methods", spec["method"])
    if options.reinforced is None:
        raise ValueError(f"--reinforced: missing; allowed: the reinforced run's folder, which {method.name!r} needs")
    settings = {key: value for key, value in spec["training"].items() if key in method.module.TRAINING}
    checkpoints = options.target / "checkpoint", options.reinforced / "checkpoint"

    def write(folder):
        with provenance.working():
            method.module.combine(*checkpoints, folder, **settings, **method.parameters)

    runs.finish(options.out, provenance, write, 0, target=kept_from(options))
    return 0


def kept_from(options):
    """The checkpoint that the weights are kept as a difference from, or None where they are kept whole."""
    return options.target / "checkpoint" if options.store_checkpoints == "delta" else None


@process.guarded
def main(argv=None) -> int:
    """Run the program; 0 done or diverged, 2 bad input, 75 or 143 interrupted with state saved."""
    runs.hear_signals()
    arguments = runs.parser("unlearn", __doc__.splitlines()[0])
    arguments.add_argument("--target", type=Path, required=True, help="run folder of the target model")
    arguments.add_argument("--reinforced", type=Path, help="run folder of the reinforced model, for methods that need it")
    how = "weights are kept whole (default), or as a difference from the target"
    arguments.add_argument("--store-checkpoints", choices=("full", "delta"), default="full", help=how)
    options = arguments.parse_args(argv)
    spec = runs.read_spec(options.spec, ("unlearn",))
    provenance = Provenance(spec)
    for part, room in (("method", "methods"), ("regularizer", "regularizers")):
        registry.require(room, spec[part]["name"], part)
    if not combinations.trains(spec["method"]["name"]):
        return arithmetic(spec, options, provenance)
    splits = ("forget", "retain1") if combinations.reads_retain(spec) else ("forget",)
    texts = {split: runs.read_texts(options.corpus, split) for split in splits}
    device = runs.prepare(options.threads)
    from scripts.core.training.unlearning import Unlearning

    return Unlearning(spec, options, provenance, texts, device).run(kept_from(options))


if __name__ == "__main__":
    process.run(main)
