"""Unlearn the forget set: a method and a regularizer, in a chosen precision of weights and moments.

usage: python -m scripts.unlearn --spec RUN/spec.json --corpus CORPUS --target TARGET_RUN [--reinforced RUN] --out RUN

A run whose loss or gradient is not finite is an outcome too: status "diverged" with the step, exit code 0, no
weights. The exit code is 75 or 143 when a signal cut training off: start it again to go on. Methods that are arithmetic
on checkpoints (task_vector, whp) train nothing and read the reinforced model, too.
"""

from pathlib import Path

from scripts.core import process, registry
from scripts.core.provenance import Provenance
from scripts.core.training import runs


def plugin(room: str, choice: dict):
    """(module, parameters) of spec["method"] or spec["regularizer"]; ValueError for an unknown name or parameter."""
    name = registry.require(room, choice["name"], room.removesuffix("s"))
    parameters, known = {k: v for k, v in choice.items() if k != "name"}, registry.parameters(room, name)
    for key in parameters:
        if key not in known:
            raise ValueError(f"{room.removesuffix('s')}.{key}: unknown parameter of {name!r}; {registry.nearest(key, known)}")
    defaults = {key: schema["default"] for key, schema in known.items()}
    return registry.load(room, name), {**defaults, **parameters}


def arithmetic(spec, options, provenance) -> int:
    """A method that combines the checkpoints of target and reinforced model."""
    module, parameters = plugin("methods", spec["method"])
    if options.reinforced is None:
        raise ValueError(f"--reinforced: missing; allowed: the reinforced run's folder, which {spec['method']['name']!r} needs")
    settings = {key: value for key, value in spec["training"].items() if key in module.TRAINING}

    def write(folder):
        with provenance.working():
            module.combine(options.target / "checkpoint", options.reinforced / "checkpoint", folder, **settings, **parameters)

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
    names = {room: registry.require(f"{room}s", spec[room]["name"], room) for room in ("method", "regularizer")}
    if registry.constants("methods", names["method"])["KIND"] == "arithmetic":
        return arithmetic(spec, options, provenance)
    needs = {need for room, name in names.items() for need in registry.constants(f"{room}s", name)["NEEDS"]}
    reads_retain = names["regularizer"] != "none" or "retain" in needs
    splits = ("forget", "retain1") if reads_retain else ("forget",)
    texts = {split: runs.read_texts(options.corpus, split) for split in splits}
    device = runs.prepare(options.threads)
    from scripts.core.training.unlearning import Unlearning

    plugins = plugin("methods", spec["method"]), plugin("regularizers", spec["regularizer"])
    return Unlearning(spec, options, provenance, names, plugins, needs, texts, device).run(kept_from(options))


if __name__ == "__main__":
    process.run(main)
