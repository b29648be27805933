"""Files that are either whole or absent.

Every program writes beside its target and renames at the end, so that a job killed at any moment leaves no half-written
output behind. JSON is written with sorted keys, so that equal content means equal bytes and an equal digest.
"""

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path


def dumps(content) -> str:
    """JSON text of `content`: sorted keys, no NaN (a missing value is null, never a number)."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def digest(content) -> str:
    """First 16 hex digits of the SHA-256 of a JSON-serialisable value."""
    return hashlib.sha256(dumps(content).encode()).hexdigest()[:16]


def file_digest(path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path):
    """Parsed content of a JSON file; ValueError that names the file when it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}") from error


def read_object(path) -> dict:
    """The object in a JSON file; {} where the file is missing or damaged, or holds something else."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def ends(path) -> bool:
    """Whether a file of write_json's is there to its end: a copy that was cut off, or an empty one, is not. Reads two bytes."""
    try:
        with open(path, "rb") as file:
            file.seek(-2, os.SEEK_END)
            return file.read() == b"}\n"
    except OSError:
        return False


@contextmanager
def whole_file(path):
    """Yield a binary file beside `path` that is synced and becomes `path` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path, text: str) -> None:
    """Write `text` to `path` through a synced temporary sibling and a rename."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path, content) -> None:
    """Write a JSON file atomically."""
    write_text(path, dumps(content))


def sync(folder) -> None:
    """Have all files below a folder on the disk: a rename can outlive the data that it names when the machine itself goes down."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def partial_folder(path) -> Path:
    """The sibling in which a folder is written before it gets its name."""
    return Path(path).with_name(f".{Path(path).name}.partial")


@contextmanager
def whole_folder(path):
    """Yield an empty sibling folder that becomes `path` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_folder(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
