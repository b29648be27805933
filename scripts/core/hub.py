"""Models on the Hugging Face hub by name, `owner/name` or `owner/name@revision` (a branch, a tag or a commit), or in local folders.

Names are looked at before any job, without a network; files come as one snapshot, whose commit goes into run.json.
"""

import os
import re
from pathlib import Path

from scripts.core.storage import read_json

DATA_SET = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
MODEL = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*(?:@\w[\w./-]*)?")
WEIGHTS = "*.safetensors"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Weights aside, what a checkpoint holds: configurations, and tokenizers in all their forms.
SMALL = ("*.json", "*.jinja", "tokenizer*", "*.model", "vocab*", "merges.txt")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
NAMES = "a hub id such as owner/name or owner/name@revision"
# For whoever has a checkpoint in pytorch_model.bin, which is never read: opening it can run code.
CONVERT = "weights in *.bin: AutoModelForCausalLM.from_pretrained(…).save_pretrained(FOLDER) makes such a folder of those you trust"


def offline(*variables: str) -> str | None:
    """The environment variable that forbids the hub, HF_HUB_OFFLINE or one of `variables`; None where none does."""
    names = ("HF_HUB_OFFLINE", *variables)
    return next((name for name in names if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), None)


def cached(kind: str, name: str) -> bool:
    """Whether anything of a repository, "models" or "datasets", lies in a cache of this machine: as downloaded, or as prepared."""
    shared = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or shared / "huggingface").expanduser()
    downloaded = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser() / f"{kind}--{name.replace('/', '--')}"
    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser() / name.replace("/", "___")
    return downloaded.is_dir() or kind == "datasets" and prepared.is_dir()


def check(source: str, key: str, weights: bool = True, tokenizer: bool = True) -> None:
    """ValueError with `key` unless `source` is a folder that has what is asked of it, or may name a model on the hub."""
    folder = Path(source)
    if folder.is_dir():
        if weights and not (folder / "config.json").is_file():
            raise ValueError(f"{key}: {source!r} has no config.json; allowed: a folder with a checkpoint, or {NAMES}")
        if weights and not any(folder.glob(WEIGHTS)):
            raise ValueError(f"{key}: {source!r} has no {WEIGHTS}; allowed: a checkpoint that has ({CONVERT})")
        if tokenizer and not any((folder / name).is_file() for name in TOKENIZERS):
            raise ValueError(f"{key}: {source!r} has no tokenizer; allowed: a folder with tokenizer.json, or {NAMES}")
    elif not MODEL.fullmatch(source):
        raise ValueError(f"{key}: {source!r} is no folder; allowed: a folder that is there, or {NAMES}")
    elif (variable := offline()) and not cached("models", named(source)[0]):
        raise ValueError(
            f"{key}: hub id {source!r} while {variable} is set and nothing is cached; allowed: a local folder, or {variable}=0"
        )


def named(source: str) -> tuple[str, str | None]:
    """(owner/name, revision or None) of a name on the hub."""
    name, _, revision = str(source).partition("@")
    return name, revision or None


def fetch(source, what: str = "model") -> tuple[Path, str | None]:
    """(folder, commit) of a "model", or of a "tokenizer" alone: its snapshot in the hub's cache; a local folder has no commit.

    Of weights only safetensors are downloaded, and only those that an index names or model.safetensors where a repository has
    either: some hold the same weights in a second layout. ValueError, one line, for what can't be had.
    """
    if Path(source).is_dir():
        return Path(source), None
    from huggingface_hub import snapshot_download

    name, revision = named(source)
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(SMALL)))
        for files in (sorted(indexed(folder)) or [WHOLE], [WEIGHTS]) if what == "model" else ():
            snapshot_download(name, revision=folder.name, allow_patterns=files)
            if any(folder.glob(WEIGHTS)):
                break
    except (OSError, ValueError) as error:
        raise missing(source, what, error) from error
    return folder, folder.name


def missing(source, what: str, error) -> ValueError:
    """The error for a model or tokenizer that `error` says can't be loaded."""
    text = " ".join(str(error).split())[:160]
    return ValueError(
        f"{what}: {str(source)!r} can't be loaded; allowed: a folder with a safetensors checkpoint, or a hub id "
        f"that is cached or reachable ({type(error).__name__}: {text}{f'; {CONVERT}' if 'safetensors' in text else ''})"
    )


def indexed(folder: Path) -> set[str]:
    """Names of the safetensors files that a checkpoint folder's index names; empty where it has none."""
    return set(read_json(folder / INDEX)["weight_map"].values()) if (folder / INDEX).exists() else set()


def weights_files(folder: Path) -> set[str]:
    """Names of the safetensors files that transformers reads of a checkpoint folder; empty where it has none of their names."""
    return {WHOLE} if (folder / WHOLE).exists() else indexed(folder)
