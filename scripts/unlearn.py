"""Unlearn the forget set: a method and a regularizer, in a chosen precision of weights and moments.

usage: python -m scripts.unlearn --spec RUN/spec.json --corpus CORPUS --target TARGET_RUN [--reinforced RUN] --out RUN

A run whose loss or gradient is not finite is an outcome too: status "diverged" with the step, exit code 0, no
weights. The exit code is 75 or 143 when a signal cut training off: start it again to go on. Methods that are arithmetic
on checkpoints (task_vector, whp) train nothing and read the reinforced model, too.
"""

import copy
import sys
from functools import partial

from scripts.core import naming, process, registry, runs, storage
from scripts.core.provenance import Provenance


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


def asked_rows(names: dict, rows: dict) -> dict:
    """{split: (N, T)}, the rows whose distributions θ_0 is asked for: of retain chunks those that have a forget chunk."""
    method, regularizer = (set(registry.constants(f"{room}s", name)["NEEDS"]) for room, name in names.items())
    asks, found = {"distribution", "logits"}, {}
    if method & asks:
        found["forget"] = rows["forget"]
    if regularizer & asks or (method & asks and "retain" in method):
        found["retain"] = rows["retain1"][: len(rows["forget"])]
    return found


def kept_from(options):
    """The checkpoint that the weights are kept as a difference from, or None where they are kept whole."""
    return options.target / "checkpoint" if options.store_checkpoints == "delta" else None


def program(argv) -> int:
    arguments = runs.parser(__doc__.splitlines()[0])
    arguments.add_argument("--target", type=runs.Path, required=True, help="run folder of the target model")
    arguments.add_argument("--reinforced", type=runs.Path, help="run folder of the reinforced model, for methods that need it")
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
    from torch.utils.data import DataLoader

    from scripts.core import batching, hyperparameters, lora, models, saliency, trainer, unlearner
    from scripts.core.distributions import Plan
    from scripts.core.points import Points
    from scripts.core.reference import Reference
    from scripts.core.resume import ResumeStore

    method, regularizer = plugin("methods", spec["method"]), plugin("regularizers", spec["regularizer"])
    settings = hyperparameters.complete(spec["training"])
    settings |= {"save_minutes": options.save_minutes, "save_steps": options.save_steps or settings["save_steps"]}
    checkpoint, weights = options.target / "checkpoint", settings["weights"]
    kind = trainer.storage_dtype(weights, device)
    zero = runs.sharding(options, settings, kind)

    def target():
        model = models.load_model(checkpoint, kind, device, settings["attention"])
        if weights != "fp32":
            trainer.to_bf16_grid(model)
        return model

    network = target()
    tokenizer = models.load_tokenizer(checkpoint)

    length, positions = spec["corpus"]["max_length"], network.config.max_position_embeddings
    if length > positions:
        raise ValueError(f"corpus.max_length: {length} is not allowed; allowed: at most the model's {positions} positions")
    rows = {split: batching.chunks(own, tokenizer, length) for split, own in texts.items()}
    dataset = batching.ForgetRetainDataset(rows["forget"], rows.get("retain1"))
    batches = partial(DataLoader, dataset, batch_size=settings["batch"], collate_fn=batching.collate)
    autocast = partial(trainer.autocast, weights, device)
    asked = asked_rows(names, rows)
    with provenance.working():
        reference = Reference.of(
            network,
            (batch["forget"] for batch in batches(sampler=zero and zero.sampler(dataset))),
            needs,
            autocast,
            zero.frozen(target()) if zero and zero.stage == 3 and needs - {"retain"} else None,
            zero and zero.gathered,
            settings["reference"],
            settings["reference_k"],
            None if zero else Plan(asked, settings["batch"], options.out, hyperparameters.passes(settings, len(dataset))),
        )
    mask = None
    if settings["saliency"] != "none":
        with provenance.working():
            mask = saliency.mask_of(
                network,
                (batch["forget"] for batch in batches()),
                lambda model, batch: method[0].loss(model, batch, reference, **method[1]),
                settings["saliency"],
                settings["percentile"],
                autocast,
                zero,
            )
        if zero is None or zero.first:
            mask.save(options.out)
    elif settings["parameters"] == "lora":
        network = lora.wrap(network, settings, spec["seed"])
        if weights != "fp32":
            trainer.to_bf16_grid(network)
    digest = runs.inputs_digest(spec, options.corpus, options.target, zero=zero)
    store = ResumeStore(options.out / ".resume", digest)
    training = unlearner.UnlearnTrainer(
        network, dataset, batching.collate, settings, spec["seed"], method, regularizer, reference, store, mask, zero
    )
    points = Points(options.out, naming.points(spec), digest, provenance, kept_from(options))

    def save(folder, state, model=network):
        plain = lora.merge(model) if settings["parameters"] == "lora" else model
        models.save_checkpoint(plain, tokenizer, folder, settings["store"], state)

    def save_along(folder, state):
        save(folder, state, copy.deepcopy(network) if settings["parameters"] == "lora" else network)  # merging changes it

    if points.names:
        training.keep_along(points, save_along)
    try:
        with provenance.working():
            status, step = "done", training.run()
    except trainer.Diverged as error:
        status, step = "diverged", error.step
        print(f"diverged: {error}", file=sys.stderr)
    if training.interruption.signal and status == "done":
        return training.interruption.exit_code

    state = zero.state_dict(training.deepspeed) if zero and status == "done" else None
    if zero and not zero.first:
        return 0

    def write(folder):
        if status == "done":
            save(folder, state)
        else:
            storage.write_json(folder / "diverged.json", {"status": status, "step": step})

    record = dict(history=training.history, resumed=training.resumed, chunks=len(dataset), device=device, **reference.facts)
    points.publish(status, step)
    runs.finish(options.out, provenance, write, step, status, kept_from(options), **record)
    store.clear()
    return 0


def main(argv=None) -> int:
    """Run the program; 0 done or diverged, 2 bad input, 75 or 143 interrupted with state saved."""
    return runs.guarded(program, argv)


if __name__ == "__main__":
    process.run(main)
