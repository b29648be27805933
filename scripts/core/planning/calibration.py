"""Calibration sets: the text on which GPTQ and AWQ measure what a layer sees.

An axis of the study: `generic` text (a sample that ships with the project, or a file of your own), the corpus's `forget`
text, or its `retain` text. The text is cut into windows of `length` tokens (BOS first, where the tokenizer has one), no
token twice; a seed picks which windows. Nothing here needs more than a tokenizer, so every environment can run it.
"""

import hashlib
import json
import random
import re
from pathlib import Path

GENERIC = Path(__file__).resolve().parents[2] / "data" / "generic.txt"
SPLITS = {"forget": "forget", "retain": "retain1"}


def check(scheme: dict) -> None:
    """What can be known before any job: the file exists, and is not certainly too short. ValueError otherwise."""
    text = scheme.get("text")
    if scheme["calibration"] != "generic":
        if text is not None:
            raise ValueError(f"text: {text!r} has no meaning with calibration {scheme['calibration']!r}; allowed: generic")
        return
    path = Path(text) if text else GENERIC
    if not path.is_file():
        raise ValueError(f"text: {str(path)!r} is missing; allowed: a text file in UTF-8")
    asked, most = scheme["samples"] * scheme["length"], path.stat().st_size
    if asked > most:  # a token takes at least one byte
        raise ValueError(
            f"samples: {scheme['samples']} of {scheme['length']} tokens are more than the {most} bytes of {path.name} can give; "
            f"allowed: fewer or shorter samples, or a longer file as text"
        )


def texts(scheme: dict, corpus) -> list[str]:
    """Documents of a calibration set; ValueError when they can't be had."""
    kind = scheme["calibration"]
    if kind == "generic":
        path = Path(scheme.get("text") or GENERIC)
        try:
            return [part for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"text: {str(path)!r} is not readable; allowed: a text file in UTF-8 ({error})") from error
    if kind not in SPLITS:
        raise ValueError(f"calibration: {kind!r} is not allowed; allowed: generic, forget, retain")
    path = Path(corpus) / "data" / "raw" / f"{SPLITS[kind]}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"calibration: {kind!r} needs {path}, which is not readable ({error})") from error
    if not isinstance(found, list) or not all(isinstance(part, str) for part in found):
        raise ValueError(f"calibration: {path} is not usable; allowed: a list of strings")
    return [part for part in found if part.strip()]


def cut(scheme: dict, corpus, tokenizer) -> tuple[list[list[int]], int]:
    """(all windows of `length` token ids that the text gives, its tokens); ValueError for windows of under 2 tokens."""
    length = scheme["length"]
    if length < 2:
        raise ValueError(f"length: {length} is not allowed; allowed: at least 2 tokens")
    stream = [token for text in texts(scheme, corpus) for token in tokenizer(text + "\n\n", add_special_tokens=False)["input_ids"]]
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    step = length - len(bos)
    return [bos + stream[i : i + step] for i in range(0, len(stream) - step + 1, step)], len(stream)


def too_short(scheme: dict, allowed: str) -> ValueError:
    """What to raise for a set that asks for more than its text gives."""
    text = f"{scheme['calibration']} text"
    return ValueError(
        f"samples: {scheme['samples']} of {scheme['length']} tokens are more than the {text} gives; allowed: {allowed}"
    )


def demands(plan, corpus: str) -> str:
    """What a sweep's schemes ask of a corpus's own text, as one word for a command line: "name=forget:128x512,…"."""
    used = {scheme for run, scheme in plan.cells if run.corpus == corpus}
    asked = {name: s for name, s in plan.config["schemes"].items() if name in used and s.get("calibration") in SPLITS}
    return ",".join(f"{name}={s['calibration']}:{s['samples']}x{s['length']}" for name, s in asked.items())


def check_demands(words: str, corpus, tokenizer=None) -> None:
    """Raise ValueError, with the scheme's key, when a corpus can't give what `demands` says; called before any training.

    Without a tokenizer only what is certain is refused: a token takes at least a byte of the split's file.
    """
    for word in filter(None, words.split(",")):
        match = re.fullmatch(r"(.+)=(forget|retain):(\d+)x(\d+)", word)
        if match is None:
            raise ValueError(f"--calibration: {word!r} is not allowed; allowed: such as gptq_int4=forget:128x512")
        name, kind, samples, length = match.groups()
        scheme = {"calibration": kind, "samples": int(samples), "length": int(length)}
        if tokenizer is None:
            most = (Path(corpus) / "data" / "raw" / f"{SPLITS[kind]}.json").stat().st_size
            enough = most >= scheme["samples"] * scheme["length"]
            allowed = f"fewer or shorter samples (the file has {most} bytes)"
        else:
            windows, tokens = cut(scheme, corpus, tokenizer)
            enough, allowed = len(windows) >= scheme["samples"], f"at most {len(windows)} ({tokens} tokens)"
        if not enough:
            raise ValueError(f"schemes.{name}.{too_short(scheme, allowed)}")


def check_built(plan) -> None:
    """`check_demands` for the corpora of a sweep that are there already, as a dry run can."""
    for run in plan.runs.values():
        folder = Path(plan.config["results"]) / run.path
        if run.stage == "corpus" and run.built(plan.config["results"]) and (folder / "data").exists():
            check_demands(demands(plan, run.corpus), folder)


def sample(scheme: dict, corpus, tokenizer) -> tuple[list[list[int]], dict]:
    """(windows, description): `samples` lists of `length` token ids, and what to record of them.

    Raises ValueError when the text gives fewer windows than asked.
    """
    length, wanted = scheme["length"], scheme["samples"]
    windows, tokens = cut(scheme, corpus, tokenizer)
    if len(windows) < wanted:
        raise too_short(scheme, f"at most {len(windows)} ({tokens} tokens)")
    chosen = random.Random(scheme["calibration_seed"]).sample(range(len(windows)), wanted)
    picked = [windows[i] for i in chosen]
    return picked, {
        "set": scheme["calibration"],
        "samples": wanted,
        "length": length,
        "seed": scheme["calibration_seed"],
        "tokens": tokens,
        "digest": hashlib.sha256(json.dumps(picked).encode()).hexdigest()[:16],
    }
