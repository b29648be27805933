"""What unlearning did to the weights, and what each quantization scheme leaves of it; no text is generated.

For one unlearned run against its target, one tensor at a time: which weights moved and how far, and for each scheme how many
codes change, how much of the update survives and in which direction (formulas: scripts/core/weights/update.py, docs/mechanism.md).
With --corpus, also how much of the update's first-order effect on the forget loss survives; that takes one backward pass of
the unlearned model over the forget set, and memory for weights and an fp32 gradient. Without, a few GB do for any model.

What was computed for a scheme is kept while run, target and scheme are the same. (The program is not called `inspect`: started by
its path, a file of that name would hide Python's own module.)
"""

import argparse
from pathlib import Path

from scripts.core import devices, process, registry
from scripts.core.provenance import Provenance
from scripts.core.storage import digest, read_json, read_object, write_json

VERSION = 3
OUTPUT = "mechanism.json"


def measure(run: Path, target: Path, schemes: list[dict], known: dict, corpus: Path | None = None) -> dict:
    """The content of mechanism.json; `known` is what an earlier call wrote, or {}.

    Schemes whose quantizer does not tell what it holds of a matrix are `left_out`.
    """
    outcome = read_json(run / "outcome.json")
    fingerprint = digest([VERSION, outcome, read_json(target / "outcome.json"), corpus is not None])
    content = {"version": VERSION, "fingerprint": fingerprint, "status": "ok", "modules": {}, "schemes": {}}
    if outcome.get("status") == "diverged":
        return content | {"status": "diverged"}
    if (run / "checkpoint" / "pair.json").exists():
        return content | {"status": "a pair of models"}  # its logits are combined: it has no weights of its own to compare
    content["left_out"] = [scheme["name"] for scheme in schemes if not says_what_it_holds(scheme)]
    schemes = [scheme for scheme in schemes if says_what_it_holds(scheme)]
    old = known if known.get("fingerprint") == fingerprint else {}
    kept = {name: entry for name, entry in old.get("schemes", {}).items() if entry["scheme"] in schemes}
    wanted = [scheme for scheme in schemes if scheme["name"] not in kept]
    if old and not wanted:
        return old | {"schemes": kept, "left_out": content["left_out"]}
    import_libraries(gradient=corpus is not None)
    provenance = Provenance({"schemes": schemes})
    with provenance.working():
        content |= compute(run, target, wanted, corpus)
    content["provenance"] = provenance.record()
    content["schemes"] = {s["name"]: (content["schemes"] | kept)[s["name"]] for s in schemes}
    return content


def import_libraries(gradient: bool) -> None:
    """Import what takes long before the work starts; what all models need only where one runs, for its gradient."""
    from scripts.core.weights import update  # noqa: F401

    if gradient:
        process.spare_imports()
        from transformers.models.llama import modeling_llama  # noqa: F401
    process.imported()


def holding(scheme: dict) -> str:
    """Name of the quantizer's function that says what it holds: of one matrix in memory, or in the files that it keeps."""
    return "stored" if registry.constants("quantizers", scheme["kind"]).get("ARTIFACT") else "held"


def says_what_it_holds(scheme: dict) -> bool:
    """Whether a scheme's quantizer has that function."""
    return hasattr(registry.load("quantizers", scheme["kind"]), holding(scheme))


def compute(run: Path, target: Path, schemes: list[dict], corpus: Path | None) -> dict:
    """{"modules", "schemes"}: sums and histograms of every tensor, and of every quantized matrix under each scheme."""
    from scripts.core.weights import update

    before, after = Tensors(target / "checkpoint"), Tensors(run / "checkpoint")
    if before.names() != after.names():
        odd = min(before.names() ^ after.names())
        raise ValueError(f"{run}: {odd!r} is not in both checkpoints; allowed: a run and the target that it started from")
    gradients = forget_gradient(run, corpus) if corpus else {}
    quantizers = {scheme["name"]: Quantizer(scheme, run, target) for scheme in schemes}
    modules, parts = {}, {name: {} for name in quantizers}
    matrices = set(after.matrices())
    for name in sorted(after.names()):
        # In the run's type, which unlearning started from: to store a target in fewer bits is no update.
        layer, old, new = name.removesuffix(".weight"), before.get(name, after.headers[name]["dtype"]), after.get(name)
        gradient = gradients.pop(name, None)
        modules[layer] = {"quantized": layer in matrices} | update.of_update(old, new, gradient)
        for scheme, quantizer in quantizers.items():
            if layer in matrices:
                parts[scheme][layer] = update.of_scheme(old, new, *quantizer.pair(layer, old, new), gradient)
    found = {s["name"]: {"scheme": s, "modules": parts[s["name"]]} for s in schemes}
    return {"modules": modules, "schemes": found}


class Tensors:
    """The tensors of a checkpoint, whole or kept as a difference, read one at a time as fp32."""

    def __init__(self, checkpoint: Path):
        from scripts.core.weights import checkpoints
        from scripts.core.weights.quantization import parameters, tensors_on_disk

        self.source = checkpoints.reader(checkpoint)
        self.headers = parameters(tensors_on_disk(checkpoint))

    def names(self) -> set[str]:
        """Names of the tensors of weights."""
        return {name for name, header in self.headers.items() if header["dtype"] in ("F32", "BF16", "F16")}

    def matrices(self) -> list[str]:
        """Layers that schemes quantize."""
        from scripts.quantizers._artifact import matrices

        return matrices(self.headers)

    def get(self, name: str, kind: str | None = None):
        """One tensor, fp32 on the CPU; rounded to `kind` first (a type as safetensors names it)."""
        from scripts.core.weights.delta import torch_type

        tensor = self.source.tensor(name)
        return (tensor.to(torch_type(kind)) if kind else tensor).float()


class Quantizer:
    """A scheme's values and codes of a matrix, of the target and of the run."""

    def __init__(self, scheme: dict, run: Path, target: Path):
        self.scheme, self.plugin, self.artifacts = scheme, registry.load("quantizers", scheme["kind"]), None
        if holding(scheme) == "stored":
            from scripts.quantizers._artifact import Stored

            self.artifacts = [Stored(place / "quantized" / scheme["name"]) for place in (target, run)]

    def pair(self, layer: str, before, after):
        """(values, codes, edge) of w_0 and of w."""
        if self.artifacts:
            return [self.plugin.stored(artifact.parts(layer), self.scheme) for artifact in self.artifacts]
        return [self.plugin.held(weight, self.scheme) for weight in (before, after)]


def forget_gradient(run: Path, corpus: Path) -> dict:
    """{tensor name: fp32 ∂L/∂w} at the unlearned model; L is the mean cross-entropy over the forget set's training chunks."""
    import torch

    from scripts.core.training import batching, hyperparameters, losses, runs, saliency
    from scripts.core.training.determinism import deterministic
    from scripts.core.weights import models
    from scripts.core.weights.quantization import load_model

    deterministic()
    spec = read_json(run / "spec.json")
    model = load_model(run / "checkpoint", "cuda" if torch.cuda.is_available() else "cpu").requires_grad_(True)
    model.activation_checkpointing_enable(hyperparameters.RECOMPUTING)  # beside the sums of a large model little room is left
    tokenizer = models.load_tokenizer(run / "checkpoint")
    rows = batching.chunks(runs.read_texts(corpus, "forget"), tokenizer, spec["corpus"]["max_length"])
    data = batching.ForgetRetainDataset(rows)
    count = max(1, 2048 // rows.shape[1])
    batches = (
        batching.collate([data[i]["forget"] for i in range(first, min(first + count, len(data)))])
        for first in range(0, len(data), count)
    )
    found = saliency.forget_gradient(model, batches, lambda m, b: losses.cross_entropy(losses.forward(m, b), b))
    return {name: gradient.cpu() for name, gradient in found.items()}


def scheme_of(path: Path) -> dict:
    """The scheme in a scheme file; ValueError for any other file."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("scheme"), dict):
        raise ValueError(f"--schemes: {str(path)!r} has no 'scheme'; allowed: scheme files")
    return content["scheme"]


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.mechanism", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="run folder of the unlearned model")
    parser.add_argument("--target", type=Path, required=True, help="run folder of the target")
    parser.add_argument("--schemes", type=Path, nargs="+", required=True, metavar="FILE", help="scheme files")
    parser.add_argument("--corpus", type=Path, help="corpus folder: also weigh the update by the forget loss's gradient")
    parser.add_argument("--out", type=Path, help=f"file that is written (default: {OUTPUT} in the run folder)")
    options = parser.parse_args(argv)
    out = options.out or options.run / OUTPUT
    for path in (options.run / "outcome.json", options.target / "outcome.json", *options.schemes):
        if not path.is_file():
            raise ValueError(f"{path} does not exist; allowed: a finished run, its target and scheme files")
    schemes = [scheme_of(path) for path in options.schemes]
    if options.corpus:  # the gradient is computed on a GPU where there is one
        devices.claim(1)
    write_json(out, measure(options.run, options.target, schemes, read_object(out), options.corpus))
    return 0


if __name__ == "__main__":
    process.run(main)
