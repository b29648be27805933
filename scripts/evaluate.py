"""All metrics of one checkpoint under one or more schemes: one model load per scheme, one file per metric.

A metric file carries the fingerprint of all that decides it: the run's outcome (and with it the weights), the corpus's
manifest, the scheme, the metric's settings and the version of its definition. A file whose fingerprint still holds is
left as it is, so a new metric or scheme computes only itself; when nothing is left to do, not even torch is imported.
A run that diverged, or a model whose logits are not finite, gets files without a value, never a score of 0.

A metric or a scheme that fails leaves the others of the job alone. Snakemake removes what a failed job has written, though: until
the job has ended well, each new file lies a second time in eval/<scheme>/.kept, from where the next attempt takes it.
"""

import argparse
import gc
import math
import numbers
import shutil
import sys
import time
import traceback
from pathlib import Path

from scripts.core import devices, process, registry
from scripts.core.provenance import Provenance
from scripts.core.storage import digest, dumps, read_json, write_json

# What a metric file has beside what its metric gave.
WRITTEN = {"metric", "kind", "version", "settings", "scheme", "fingerprint", "status", "reason", "provenance"}
WRITTEN |= {"quantization", "bits_per_weight"}


def settings(entry: dict, corpus: dict | None = None) -> dict:
    """A metric's settings with defaults filled in, without `kind`; ValueError for an unknown name.

    A null whose parameter names a key of the corpus's settings (`corpus`) is filled in from there.
    """
    known = registry.parameters("metrics", entry["kind"])
    given = {name: value for name, value in entry.items() if name != "kind"}
    for name in given:
        if name not in known:
            raise ValueError(f"metrics: {name!r} is not a setting of {entry['kind']}; {registry.nearest(name, known)}")
    filled = registry.defaults("metrics", entry["kind"]) | given
    for name, parameter in known.items():
        if filled[name] is None and "corpus" in parameter:
            filled[name] = (corpus or {}).get(parameter["corpus"])
    return filled


def checked(found, name: str) -> dict:
    """What a metric's evaluate() returned, its value a float; ValueError (one line) where that is no score."""
    key = f"metrics.{name}: evaluate() gave"
    if not isinstance(found, dict) or not found.keys() >= {"value", "n", "samples"}:
        raise ValueError(f"{key} {str(found)[:80]}; allowed: a mapping with value, n and samples")
    if own := sorted(found.keys() & WRITTEN):
        raise ValueError(f"{key} a {own[0]!r}, which the evaluation writes itself; allowed: another name")
    value = found["value"]
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"{key} the value {value!r}; allowed: a finite number (where the model gives none, NotFinite is raised)")
    found = found | {"value": float(value)}
    try:
        dumps(found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} what JSON can't hold ({error}); allowed: finite numbers, texts, lists, mappings") from error
    return found


def one_line(error: Exception, what: str) -> str:
    """An error of a metric or scheme in one line; one that is not about bad input also prints where it comes from."""
    if isinstance(error, ValueError | OSError):
        return str(error)
    if line := process.gpu_full(error):
        return f"{what}: {line}"
    traceback.print_exception(error)
    return f"{what}: {type(error).__name__}: {error}".splitlines()[0]


class Job:
    """One scheme of one run: what has to be computed, and where it is written."""

    def __init__(self, run: Path, corpus: Path, path: Path):
        self.run, self.data, self.evaluation = run, corpus / "data", read_json(path)
        for part in ("scheme", "metrics"):
            if not isinstance(self.evaluation, dict) or not isinstance(self.evaluation.get(part), dict):
                raise ValueError(f"{path}: has no {part!r}; allowed: a file of <results>/<corpus>/evaluations")
        self.outcome, manifest = read_json(run / "outcome.json"), read_json(corpus / "manifest.json")
        self.scheme = self.evaluation["scheme"]
        registry.require("quantizers", self.scheme.get("kind"), f"{path}: scheme.kind")
        # Above, for a checkpoint along a training.
        spec = next((read_json(place / "spec.json") for place in (run, run.parent) if (place / "spec.json").exists()), {})
        self.facts = {
            "run": spec.get("run"),
            "seed": spec.get("seed"),
            "weights": self.outcome.get("weights"),
            "corpus": digest(manifest),
        }
        self.metrics, self.timed = {}, {}
        for name, entry in self.evaluation["metrics"].items():
            kind = registry.require("metrics", entry.get("kind", name), f"{path}: metrics.{name}.kind")
            chosen = settings(entry | {"kind": kind}, self.evaluation.get("corpus"))
            version = registry.constants("metrics", kind)["VERSION"]
            decides = [self.outcome, manifest, self.scheme, kind, chosen, version]
            decides += [self.evaluation["engine"]] if "engine" in self.evaluation else []
            content = {"metric": name, "kind": kind, "version": version, "settings": chosen}
            self.metrics[name] = content | {"scheme": self.scheme, "fingerprint": digest(decides)}

    def file(self, name: str) -> Path:
        """Where a metric of this scheme is written."""
        return self.run / "eval" / self.scheme["name"] / f"{name}.json"

    def pending(self) -> list[str]:
        """Metrics without a file, or with one made from something else."""
        return [name for name in self.metrics if not self._holds(name, self.file(name))]

    def put_back(self) -> None:
        """Put back the files of pending metrics that an attempt which failed has kept."""
        for name in self.pending():
            if self._holds(name, self.spare(name)):
                write_json(self.file(name), read_json(self.spare(name)))

    def spare(self, name: str) -> Path:
        """Where a metric's file lies a second time until the job has ended well."""
        return self.file(name).parent / ".kept" / f"{name}.json"

    def tidy(self) -> None:
        """Remove the second copies."""
        for folder in {self.spare(name).parent for name in self.metrics}:
            shutil.rmtree(folder, ignore_errors=True)

    def _holds(self, name: str, path: Path) -> bool:
        try:
            return path.is_file() and read_json(path).get("fingerprint") == self.metrics[name]["fingerprint"]
        except (ValueError, AttributeError):
            return False

    def write(self, name: str, provenance: Provenance, **content) -> None:
        """Write a metric file. content: status, value, n, samples, and whatever the metric adds."""
        content |= {"provenance": provenance.record(**self.facts, **self.timed)}
        for path in (self.spare(name), self.file(name)):
            write_json(path, self.metrics[name] | content)
        value = content["value"]
        shown = content["status"] if value is None else f"{value:.2f}"
        print(f"{self.scheme['name']} {name}: {shown} (n {content['n']})", file=sys.stderr)

    def without_value(self, names, provenance: Provenance, status: str, reason: str, **more) -> None:
        """Write files that say why there is no score."""
        for name in names:
            empty = {"status": status, "reason": reason, "value": None, "n": 0, "samples": []}
            self.write(name, provenance, **empty, **more)

    def engine(self, plugin, checkpoint: Path, device: str, extra: dict):
        """(Engine, description of the quantization) of the run's model under the scheme."""
        batch_tokens = self.evaluation.get("batch_tokens", 8192)
        if self.evaluation.get("engine") == "vllm":
            # Text needs neither pictures nor sound; these libraries can only be imported where their builds match torch's.
            sys.modules.update(dict.fromkeys(("torchvision", "torchaudio", "torchcodec")))
            from scripts.core.evaluation import vllm_engine

            return vllm_engine.load(plugin, checkpoint, self.scheme, device, batch_tokens, **extra)
        process.spare_imports()
        from scripts.core.evaluation.engine import Engine
        from scripts.core.weights import pairs
        from scripts.core.weights.models import load_tokenizer

        process.imported()  # the collection between two schemes need not look through libraries
        model, described = pairs.load(plugin, checkpoint, self.scheme, device, **extra)
        return Engine(model, load_tokenizer(checkpoint), batch_tokens), described

    def compute(self, names: list[str], artifact: Path | None, device: str | None) -> list[str]:
        """Compute and write the metrics `names`; returns a line for each that failed."""
        provenance = Provenance(self.evaluation)
        if self.outcome.get("status") == "diverged":
            step = self.outcome.get("step")
            self.without_value(names, provenance, "diverged", f"diverged at step {step}", step=step)
            return []
        checkpoint, kind = self.run / "checkpoint", self.scheme["kind"]
        plugin, facts = registry.load("quantizers", kind), registry.constants("quantizers", kind)
        extra = {}
        if facts.get("ARTIFACT"):
            extra["artifact"] = artifact or self.run / "quantized" / self.scheme["name"]
        started = time.monotonic()
        device = device or devices.pick(kind, facts["HARDWARE"])
        engine, described = self.engine(plugin, checkpoint, device, extra)
        self.timed = {"quantize_seconds": round(time.monotonic() - started, 2)}
        from scripts.core.evaluation.generation import NotFinite

        common, failed = {"quantization": described, "bits_per_weight": described["bits_per_weight"], **engine.facts}, []
        for name in names:
            provenance = Provenance(self.evaluation)
            content = self.metrics[name]
            print(f"{self.scheme['name']} {name}", file=sys.stderr)
            try:
                metric = registry.load("metrics", content["kind"])
                with provenance.working():
                    found = checked(metric.evaluate(engine, self.data, content["settings"]), name)
            except NotFinite as error:
                self.without_value([name], provenance, "not finite", str(error), **common)
            except Exception as error:
                failed.append(one_line(error, f"{self.scheme['name']} {name}"))
            else:  # what can't be written ends the job: the disk is full, for the others, too
                self.write(name, provenance, status="ok", **common | found)
        return failed


def attempt(job: Job, artifact: Path | None, device: str | None) -> list[str]:
    """Compute what a job lacks; returns a line for each metric that failed, or one for the scheme."""
    job.put_back()
    names = job.pending()
    kept = len(job.metrics) - len(names)
    print(f"{job.scheme['name']}: {len(names)} metrics to compute, {kept} kept", file=sys.stderr)
    if not names:
        return []
    if device != "cpu":
        devices.claim(1)  # does nothing for the second scheme: one is shown by then
    try:
        return job.compute(names, artifact, device)
    except OSError:
        raise
    except Exception as error:
        return [one_line(error, f"scheme {job.scheme['name']}")]


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="run folder: outcome.json, checkpoint/")
    parser.add_argument("--corpus", type=Path, required=True, help="corpus folder: manifest.json, data/")
    parser.add_argument("--schemes", type=Path, nargs="+", required=True, metavar="FILE", help="of <results>/<corpus>/evaluations")
    parser.add_argument("--artifact", type=Path, help="quantized model (default: <run>/quantized/<scheme>, where needed)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")
    options = parser.parse_args(argv)
    if options.artifact and len(options.schemes) > 1:
        raise ValueError(f"--artifact: {str(options.artifact)!r} with {len(options.schemes)} schemes; allowed: one scheme")
    for path in (options.run / "outcome.json", options.corpus / "manifest.json", *options.schemes):
        if not path.is_file():
            raise ValueError(f"{path} does not exist; allowed: a finished run, a built corpus and scheme files")
    jobs, failed = [Job(options.run, options.corpus, path) for path in options.schemes], []
    for number, job in enumerate(jobs):
        if number:
            gc.collect()  # a scheme's model should not meet that of the one before in memory
        failed += attempt(job, options.artifact, options.device)
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    if not failed:
        for job in jobs:
            job.tidy()
    return 2 if failed else 0


if __name__ == "__main__":
    process.run(main)
