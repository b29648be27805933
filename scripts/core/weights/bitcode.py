"""Bytes of an array as a difference from another array of the same type and length: exact for every bit pattern.

The difference is the XOR of bit patterns. Its bytes are stored plane by plane (all lowest bytes, then all second ones, …),
since most high bytes are zero. Where few elements changed, the distances from one to the next say which, and only theirs are
stored: the time of reading goes with what changed. zstd does the rest; what it can't shrink is kept as it is.
"""

import numpy as np
import zstandard

# Higher levels gain a tenth and cost many times the time; shorter matches are chance here, and cost time when they are read.
SETTINGS = zstandard.ZstdCompressionParameters.from_level(1, min_match=7)
SPARSE = 1 / 3  # below this share of changed elements naming them takes less than the zeros between them
FARTHEST = 2**16  # distances below it are stored in two bytes
WORDS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}


def words(array: np.ndarray, width: int) -> np.ndarray:
    """Bytes (uint8, 1-D) as unsigned integers of `width` bytes; nothing is copied."""
    return array.view(WORDS[width])


def encode(new: np.ndarray, base: np.ndarray | None) -> tuple[str, bytes]:
    """(coding, payload) of an array of unsigned integers; base: one of the same type and length, or None."""
    if base is None:
        return best(("planes", planes(new)), new)
    difference = new ^ base
    changed = difference != 0
    count = np.count_nonzero(changed)
    if count == 0:
        return "same", b""
    if count < SPARSE * new.size:
        steps = np.diff(np.flatnonzero(changed), prepend=-1)
        if steps.max() < FARTHEST:
            return best(("steps", planes(steps.astype("<u2")) + planes(difference[changed])), new)
        return best(("sparse", np.packbits(changed).tobytes() + planes(difference[changed])), new)
    return best(("dense", planes(difference)), new)


def best(candidate: tuple[str, bytes], new: np.ndarray) -> tuple[str, bytes]:
    """The candidate compressed, or the array as it is where that is no larger."""
    coding, raw = candidate
    payload = zstandard.ZstdCompressor(compression_params=SETTINGS).compress(raw)
    return (coding, payload) if len(payload) < new.nbytes else ("raw", new.tobytes())


def decode(coding: str, payload: bytes, base: np.ndarray | None, out: np.ndarray) -> None:
    """Write what `encode` took into `out` (unsigned integers). ValueError for a payload that can't be of this array."""
    if coding == "same":
        out[:] = base
        return
    if coding == "raw":
        out[:] = np.frombuffer(payload, out.dtype)
        return
    try:
        raw = np.frombuffer(zstandard.ZstdDecompressor().decompress(payload, max_output_size=2 * out.nbytes), np.uint8)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd: {error}") from error
    if coding == "steps":
        count = raw.size // (2 + out.itemsize)
        where = np.cumsum(joined(raw[: 2 * count], np.dtype("<u2"), count), dtype=np.intp)
        where -= 1  # the first distance is that from before the beginning
        if count and where[-1] >= out.size:
            raise ValueError(f"element {where[-1]} of {out.size}")
        out[:] = base
        out[where] ^= joined(raw[2 * count :], out.dtype, count)
    elif coding == "sparse":
        length = -(-out.size // 8)
        where = np.flatnonzero(np.unpackbits(raw[:length], count=out.size).view(bool))
        out[:] = base
        out[where] ^= joined(raw[length:], out.dtype, where.size)
    elif coding == "dense":
        np.bitwise_xor(joined(raw, out.dtype, out.size), base, out=out)
    elif coding == "planes":
        out[:] = joined(raw, out.dtype, out.size)
    else:
        raise ValueError(f"coding {coding!r} is unknown")


def planes(values: np.ndarray) -> bytes:
    """Bytes of unsigned integers, plane by plane, the lowest first."""
    return values.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def joined(raw: np.ndarray, dtype, count: int) -> np.ndarray:
    """`count` unsigned integers of their byte planes; ValueError when the number of bytes is another."""
    if raw.size != count * dtype.itemsize:
        raise ValueError(f"{raw.size} bytes instead of {count * dtype.itemsize}")
    parts = raw.reshape(dtype.itemsize, count)
    values = parts[-1].astype(dtype)
    for part in parts[-2::-1]:
        values <<= 8
        values |= part
    return values
