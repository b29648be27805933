"""Checkpoints kept as lossless differences from the target that they were trained from.

`pack` turns the safetensors files of a checkpoint folder into one delta.safetensors: under each tensor's name a uint8 vector
of compressed chunks (bitcode.py), in its metadata the original files' headers word for word, a checksum of every
tensor, and where the target is. Tensors are read one by one; a restored file equals the original byte for byte. The
target's own tensors are the base, rounded to the stored type where that differs: what unlearning started from.
"""

import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from hashlib import sha256
from mmap import ACCESS_READ, mmap
from pathlib import Path

from scripts.core import storage

FILE, FORMAT = "delta.safetensors", "1"
CHUNK = 1 << 20  # elements: threads share large tensors, small ones are one chunk
TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
TYPES |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
TYPES |= {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}


class DeltaError(ValueError):
    """One line: why a checkpoint can't be restored."""


def header(path) -> tuple[str, dict]:
    """The header of a safetensors file: its text, padding included, and its parsed content. ValueError for another file."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            text = file.read(length).decode()
        return text, json.loads(text)
    except (ValueError, struct.error, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: no whole safetensors file ({error}); allowed: safetensors") from error


def is_packed(folder) -> bool:
    """Whether a checkpoint folder holds a difference instead of whole weights."""
    return (Path(folder) / FILE).is_file()


class Weights:
    """Tensors of a folder's whole safetensors files by name, read lazily: views on the files."""

    def __init__(self, folder):
        self.files, self.entries, self.opened = {}, {}, {}
        for path in sorted(Path(folder).glob("*.safetensors")):
            text, parsed = header(path)
            entries = {name: entry for name, entry in parsed.items() if name != "__metadata__"}
            check_size(path, text, entries)
            self.entries |= entries
            self.files |= dict.fromkeys(entries, (path, 8 + len(text.encode())))
        if not self.files:
            raise DeltaError(f"target: {str(folder)!r} holds no *.safetensors; allowed: the target's whole checkpoint")

    def octets(self, name: str):
        """A tensor's bytes as a uint8 array that can't be written to."""
        import numpy as np

        (path, start), (first, last) = self.files[name], self.entries[name]["data_offsets"]
        if path not in self.opened:
            with open(path, "rb") as file:
                self.opened[path] = np.frombuffer(mmap(file.fileno(), 0, access=ACCESS_READ), np.uint8)
        return self.opened[path][start + first : start + last]

    def tensor(self, name: str):
        """A tensor, in memory of its own."""
        entry = self.entries[name]
        return tensor(self.octets(name).copy(), entry["dtype"], entry["shape"])

    def base(self, name: str, kind: str, shape: list[int]):
        """Bytes (uint8 array) of the tensor in the type `kind` (as safetensors names it); None without one of that shape."""
        entry = self.entries.get(name)
        if entry is None or entry["shape"] != shape:
            return None
        if entry["dtype"] == kind:
            return self.octets(name)
        dtype = torch_type(kind)
        if not (torch_type(entry["dtype"]).is_floating_point and dtype.is_floating_point):
            return None
        return octets(self.tensor(name).to(dtype))


def check_size(path, text: str, entries: dict) -> None:
    """ValueError unless a safetensors file is as long as its header says."""
    end, size = max((entry["data_offsets"][1] for entry in entries.values()), default=0), os.stat(path).st_size
    if size != 8 + len(text.encode()) + end:
        raise ValueError(f"{path}: {size} bytes instead of {8 + len(text.encode()) + end}")


def torch_type(kind: str):
    """The torch type of a safetensors type; DeltaError for one that no checkpoint here has."""
    import torch

    if kind not in TYPES:
        raise DeltaError(f"store_checkpoints: tensors of type {kind} can't be kept as differences; allowed: {', '.join(TYPES)}")
    return getattr(torch, TYPES[kind])


def tensor(values, kind: str, shape: list[int]):
    """The torch tensor that bytes (uint8 array) stand for; they stay its memory."""
    import torch

    empty = torch.empty(shape, dtype=torch_type(kind))
    return torch.from_numpy(values).view(empty.dtype).reshape(shape) if values.size else empty


def octets(tensor):
    """A tensor's bytes as a uint8 array; nothing is copied."""
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def checksum(array) -> str:
    """XXH3 (64 bits, hex) of a uint8 array."""
    import xxhash

    return xxhash.xxh3_64_hexdigest(array)


def pack(folder, target) -> dict[str, int]:
    """Replace the weights in `folder`, and in folders below it, by differences from the checkpoint folder `target`.

    Every tensor is read back and compared before the whole files go. Returns {"full", "stored"}: bytes of weights before
    and after. DeltaError when the target has no whole weights.
    """
    places = sorted({path.parent for path in Path(folder).rglob("*.safetensors")})
    sizes = [_pack(place, Path(target)) for place in places]
    return {key: sum(size[key] for size in sizes) for key in ("full", "stored")}


def _pack(folder: Path, target: Path) -> dict[str, int]:
    import torch
    from safetensors.numpy import save_file

    own, base, files = Weights(folder), Weights(target), sorted(folder.glob("*.safetensors"))
    heads = {path.name: header(path)[0] for path in files}
    payloads, records = {}, {}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # the GPU waits for it
        for name in own.files:
            payloads[name], records[name] = encoded(own, base, name, pool.map)
    content = {"files": heads, "tensors": records}
    place = os.path.relpath(os.path.realpath(target), os.path.realpath(folder))
    metadata = {"format": FORMAT, "target": place, "content": json.dumps(content)}
    full = sum(path.stat().st_size for path in files)
    path = folder / FILE
    save_file(payloads, str(path), metadata)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    packed = Delta(folder)
    for name in own.files:
        if not (packed.octets(name) == own.octets(name)).all():
            raise RuntimeError(f"{path}: {name} does not come back as it was")
    for original in files:
        original.unlink()
    return {"full": full, "stored": path.stat().st_size}


def encoded(own: Weights, base: Weights, name: str, each=map):
    """(payload as a uint8 array, record) of one tensor. each: how chunks are gone through, a `map`."""
    import numpy as np

    from scripts.core.weights import bitcode

    entry = own.entries[name]
    new, width = own.octets(name), torch_type(entry["dtype"]).itemsize
    old = base.base(name, entry["dtype"], entry["shape"])

    def encode(chunk):
        i, j = chunk
        return bitcode.encode(bitcode.words(new[i:j], width), None if old is None else bitcode.words(old[i:j], width))

    parts = list(each(encode, bounds(new.size, width)))
    record = {"chunks": [[coding, len(payload)] for coding, payload in parts], "sum": checksum(new)}
    record["base"] = None if old is None else checksum(old)
    return np.frombuffer(b"".join(payload for _, payload in parts), np.uint8), record


def bounds(size: int, width: int) -> list[tuple[int, int]]:
    """(begin, end) in bytes of the chunks of a tensor of `size` bytes."""
    step = CHUNK * width
    return [(i, min(i + step, size)) for i in range(0, size, step)]


class Delta:
    """An opened delta.safetensors. DeltaError with one line when it, or its target, can't be what it was written from."""

    def __init__(self, folder):
        self.folder, self.path = Path(folder), Path(folder) / FILE
        try:
            text, self.entries = header(self.path)
            self.start, metadata = 8 + len(text.encode()), self.entries.pop("__metadata__")
            check_size(self.path, text, self.entries)
            self.format, self.target = metadata["format"], self.folder / metadata["target"]
            content = json.loads(metadata["content"])
            self.heads, self.records = content["files"], content["tensors"]
        except (KeyError, TypeError, ValueError) as error:
            raise DeltaError(f"{self.path}: its header is damaged ({type(error).__name__}); make the run again") from error
        if self.format != FORMAT:
            raise DeltaError(f"{self.path}: format {self.format!r} is unknown; allowed: {FORMAT}")

    @cached_property
    def headers(self) -> dict[str, dict]:
        """{name: {"dtype", "shape", "data_offsets"}} of the whole files' tensors."""
        parsed = [json.loads(text) for text in self.heads.values()]
        return {name: entry for head in parsed for name, entry in head.items() if name != "__metadata__"}

    @cached_property
    def _base(self) -> Weights:
        try:
            return Weights(self.target)
        except DeltaError:
            named = os.path.abspath(self.target)  # where a run was moved and a link left, ".." leads there by name alone
            if not self.target.exists() and os.path.exists(named):
                return Weights(named)
            raise DeltaError(
                f"{self.path}: its target {os.path.normpath(self.target)} is not there; "
                "allowed: a target's whole checkpoint where it was when the run was stored"
            ) from None

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        import torch

        return ThreadPoolExecutor(torch.get_num_threads())

    def octets(self, name: str):
        """Bytes (uint8 array) of a tensor, restored and compared with its checksum."""
        import numpy as np

        from scripts.core.weights import bitcode

        entry, record = self.headers[name], self.records[name]
        width, (first, last) = torch_type(entry["dtype"]).itemsize, entry["data_offsets"]
        begin, end = self.entries[name]["data_offsets"]
        out, payload = np.empty(last - first, np.uint8), np.fromfile(self.path, np.uint8, end - begin, offset=self.start + begin)
        base = None if record["base"] is None else self._base.base(name, entry["dtype"], entry["shape"])

        def restore(chunk):
            (i, j), (coding, size), start = chunk
            old = None if base is None else bitcode.words(base[i:j], width)
            bitcode.decode(coding, payload[start : start + size].data, old, bitcode.words(out[i:j], width))

        sizes = [size for _, size in record["chunks"]]
        chunks = list(zip(bounds(out.size, width), record["chunks"], np.cumsum([0, *sizes])[:-1].tolist(), strict=True))
        try:
            if record["base"] is not None and base is None:
                raise ValueError("no such tensor in the target")
            list((self._pool.map if len(chunks) > 1 else map)(restore, chunks))
            if checksum(out) != record["sum"]:
                raise ValueError("checksum")
        except ValueError as error:
            raise self._damaged(name, record, base, error) from error
        return out

    def _damaged(self, name: str, record: dict, base, error) -> DeltaError:
        if record["base"] is not None and (base is None or checksum(base) != record["base"]):
            return DeltaError(
                f"{self.path}: {name} was stored as a difference from another target than {os.path.normpath(self.target)} "
                "now holds; allowed: that target, or make the run again"
            )
        return DeltaError(f"{self.path}: {name} is damaged ({error}); make the run again")

    def tensor(self, name: str):
        """A tensor, restored."""
        entry = self.headers[name]
        return tensor(self.octets(name), entry["dtype"], entry["shape"])

    def tensors(self) -> dict:
        """All tensors by name."""
        return {name: self.tensor(name) for name in self.headers}

    def pieces(self, file: str):
        """The bytes of one of the whole files, in order: header, then tensor by tensor."""
        text = self.heads[file].encode()
        yield struct.pack("<Q", len(text)) + text
        entries = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        for name in sorted(entries, key=lambda name: entries[name]["data_offsets"]):
            yield self.octets(name)

    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each whole file, without writing it."""
        found = {}
        for file in self.heads:
            digest = sha256()
            for piece in self.pieces(file):
                digest.update(piece)
            found[file] = digest.hexdigest()
        return found

    def restore(self, out) -> None:
        """Write the whole files into the folder `out`, as they were."""
        for file in self.heads:
            with storage.whole_file(Path(out) / file) as stream:
                for piece in self.pieces(file):
                    stream.write(piece)
