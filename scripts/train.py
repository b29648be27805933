"""The models beside unlearning: base (from scratch), target (forget + retain text), retrain (retain text), reinforced.

usage: python -m scripts.train --spec RUN/spec.json --corpus CORPUS [--base BASE_RUN] --out RUN

spec["stage"] says which; spec["model"]["kind"] says how: "scratch" trains a tokenizer and a Llama on raw/pretrain and
fine-tunes it, "finetune" fine-tunes an existing model, "pretrained" copies a published checkpoint as it is. The stage
"reinforced" trains the target (its run folder is --base) further on forget text, whatever the kind. Training
is ordinary: float32 weights, AdamW, rounded once to the stored precision at the end. The exit code is 75 or 143 when
a signal cut training off: start it again to go on.
"""

import random
from pathlib import Path

from scripts.core import hub, process, storage
from scripts.core.planning.plan import RECIPES
from scripts.core.provenance import Provenance
from scripts.core.training import runs

SPLITS = {"base": ("pretrain",), "target": ("forget", "retain1"), "retrain": ("retain1",), "reinforced": ("forget",)}
# spec["model"]["pretrain" | "finetune" | "reinforce"] says these of a training; the rest is fixed.
RECIPE = ("lr", "epochs", "batch", "accumulation", "schedule", "warmup", "clip", "weight_decay")


def recipe(model: dict, stage: str) -> dict:
    """The training settings of a stage: those of its recipe in spec["model"], weights in float32."""
    name = RECIPES[stage]
    if name not in model:
        raise ValueError(f"model.{name}: missing; stage {stage!r} needs it")
    settings = {"schedule": "cosine", "batch": 16, **{k: v for k, v in model[name].items() if k in RECIPE}}
    return {**settings, "max_steps": model[name].get("steps"), "weights": "fp32", "moments": "fp32"}


def texts_of(corpus, stage: str, model: dict) -> list[str]:
    """The training text of a stage; further copies of a split come in another order: neighbours are not learnt."""
    texts, copies = [], {} if stage == "base" else model[RECIPES[stage]]
    for split in SPLITS[stage]:
        own = runs.read_texts(corpus, split)
        for copy in range(copies.get("forget_copies" if split == "forget" else "retain_copies", 1)):
            texts += random.Random(copy).sample(own, len(own)) if copy else own
    return texts


def vocabulary_texts(corpus) -> list[str]:
    """All text of the corpus, questions and answers too: all runs of a corpus share one tokenizer, retrain included."""
    folder, texts = corpus / "data", []
    for path in sorted(folder.glob("raw/*.json")):
        texts += runs.read_texts(corpus, path.stem)
    for path in sorted(folder.glob("knowmem/*.json")):
        texts += [f"Question: {pair['question']} Answer: {pair['answer']}" for pair in storage.read_json(path)]
    return texts


def origins(model: dict, stage: str) -> dict:
    """{part: (folder, commit)} of what a stage takes from elsewhere, as scripts.core.hub.fetch gives it.

    The parts are "tokenizer" and "base", "target" or "retrain". What a name on the hub stands for is asked once: it may move.
    """
    part = "base" if model["kind"] == "finetune" else stage
    found = {part: hub.fetch(model[part])}
    return found | {"tokenizer": hub.fetch(model["tokenizer"], "tokenizer") if model.get("tokenizer") else found[part]}


def recorded(model: dict, found: dict) -> dict:
    """{part: {"source", "commit"}} of `origins`, for run.json."""
    named = {part: model.get(part) for part in found}
    return {part: {"source": str(named[part]), "commit": commit} for part, (_, commit) in found.items() if named[part]}


def starting_point(spec, corpus, base, device, found):
    """(model, tokenizer) that the stage trains. found: its `origins` where it starts from a model from elsewhere, else {}."""
    from scripts.core.weights import models

    model, stage = spec["model"], spec["stage"]
    if stage == "base":
        tokenizer = models.build_tokenizer(vocabulary_texts(corpus), model["vocab"], model["positions"])
        return models.build_model(model, tokenizer).to(device), tokenizer
    if found:
        return models.load_model(found["base"][0], "fp32", device), models.load_tokenizer(found["tokenizer"][0])
    if base is None:
        whose = "the target's" if stage == "reinforced" else "the base model's"
        raise ValueError(f"--base: missing; allowed: {whose} run folder, from which stage {stage!r} starts")
    return models.load_model(base / "checkpoint", "fp32", device), models.load_tokenizer(base / "checkpoint")


def publish(spec, options, provenance) -> int:
    """Take a published checkpoint as it is."""
    from scripts.core.planning import calibration
    from scripts.core.weights import models

    model, stage = spec["model"], spec["stage"]
    found = origins(model, stage)
    tokenizer = models.load_tokenizer(found["tokenizer"][0])
    calibration.check_demands(options.calibration, options.corpus, tokenizer)

    def write(folder):
        models.copy_checkpoint(found[stage][0], folder)
        tokenizer.save_pretrained(folder)

    runs.finish(options.out, provenance, write, 0, sources=recorded(model, found))
    return 0


def fit(spec, options, provenance) -> int:
    """Train a stage's model and write it; the exit code."""
    stage, model = spec["stage"], spec["model"]
    settings, texts = recipe(model, stage), texts_of(options.corpus, stage, model)
    device = runs.prepare(options.threads)
    from scripts.core.planning import calibration
    from scripts.core.training import batching, hyperparameters, trainer
    from scripts.core.training.resume import ResumeStore
    from scripts.core.weights import models

    settings |= {"save_minutes": options.save_minutes, "save_steps": options.save_steps}
    zero = runs.sharding(options, hyperparameters.complete(settings), "fp32")
    found = origins(model, stage) if model["kind"] == "finetune" and stage != "reinforced" else {}
    network, tokenizer = starting_point(spec, options.corpus, options.base, device, found)
    calibration.check_demands(options.calibration, options.corpus, tokenizer)
    length = spec["corpus"]["max_length"]
    models.check_length(network, length)
    dataset = batching.TextDataset(batching.chunks(texts, tokenizer, length))
    starts = [options.base] if options.base else []
    store = ResumeStore(options.out / ".resume", runs.inputs_digest(spec, options.corpus, *starts, zero=zero))
    seed = spec.get("seed", model.get("seed", 0))
    training = trainer.RunTrainer(network, dataset, settings, seed, store, zero)
    try:
        with provenance.working():
            step = training.run()
    except trainer.Diverged as error:
        # Without a base, target or retrain model nothing else can be computed: an error, unlike for an unlearned model.
        store.clear()
        raise ValueError(f"training of {spec['run']}: {error}; allowed: settings that converge (smaller lr)") from error
    if training.interruption.signal:
        return training.interruption.exit_code
    state = zero and zero.state_dict(training.deepspeed)
    if zero and not zero.first:
        return 0

    def write(folder):
        models.save_checkpoint(network, tokenizer, folder, state=state)

    record = {"history": training.history, "resumed": training.resumed, "chunks": len(dataset), "device": device}
    record |= {"recomputed": True} if training.training["gradient_checkpointing"] else {}
    record |= {"sources": recorded(model, found)} if found else {}
    runs.finish(options.out, provenance, write, step, **record)
    store.clear()
    return 0


@process.guarded
def main(argv=None) -> int:
    """Run the program; 0 done, 2 bad input, 75 or 143 interrupted with state saved."""
    runs.hear_signals()
    arguments = runs.parser("train", __doc__.splitlines()[0])
    arguments.add_argument(
        "--base", type=Path, help="run folder to start from: the base (scratch models), the target (stage reinforced)"
    )
    arguments.add_argument("--calibration", default="", help="what schemes ask of the corpus's text: NAME=SET:SAMPLESxLENGTH,…")
    options = arguments.parse_args(argv)
    spec = runs.read_spec(options.spec, SPLITS)
    copied = spec["model"]["kind"] == "pretrained" and spec["stage"] != "reinforced"
    return (publish if copied else fit)(spec, options, Provenance(spec))


if __name__ == "__main__":
    process.run(main)
