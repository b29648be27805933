"""Dequantization of stored formats, exactly, into plain fp32 weights.

One evaluation path serves every scheme: the codes that another library wrote, in its own environment, are read here and
become the weights of an ordinary model. That is what a weight-only kernel multiplies with, and it is what the exactness
tests compare. Formats: GPTQ (auto-gptq's layout, which GPTQModel writes too), compressed-tensors' pack-quantized, HQQ
codes with their scales, and llama.cpp's blocks.
"""

import torch

from scripts.quantizers.gguf import SIZES


def unpack(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Codes (n, count) int64 of rows of int32 words (n, w): a dense stream of `bits`-wide fields, lowest bit first."""
    wide = words.long() & 0xFFFFFFFF
    wide = torch.cat([wide, wide.new_zeros(len(wide), 1)], 1)
    start = torch.arange(count, device=words.device) * bits
    word, offset = start // 32, start % 32
    return ((wide[:, word] | wide[:, word + 1] << 32) >> offset) & (2**bits - 1)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `unpack`: codes (n, count) in 0 … 2^bits − 1 → int32 words (n, ceil(count·bits/32))."""
    n, count = codes.shape
    start = torch.arange(count, device=codes.device) * bits
    words = torch.zeros(n, -(-count * bits // 32) + 1, dtype=torch.int64, device=codes.device)
    field = codes.long() << (start % 32)
    words.index_add_(1, start // 32, field & 0xFFFFFFFF)
    words.index_add_(1, start // 32 + 1, field >> 32)
    words = words[:, :-1]
    return torch.where(words >= 2**31, words - 2**32, words).int()


def gptq(tensors: dict, bits: int) -> torch.Tensor:
    """(rows, columns) from GPTQ's qweight (columns·bits/32, rows), qzeros (groups, rows·bits/32), scales (groups, rows), g_idx.

    w = scales[g]·(code − zero[g]), g = g_idx[column]. This first version of the format stores zero − 1: as GPTQModel
    does, 1 is added to each field of the packed words, carries between fields included.
    """
    groups, rows = tensors["scales"].shape
    index = tensors["g_idx"].long()
    stored = tensors["qzeros"]
    if bits == 3:  # fields cross words, so there is no adding of words: each field wraps by itself
        zeros = (unpack(stored, bits, rows) + 1) & 7
    else:
        one = pack(torch.ones(1, rows, dtype=torch.int64, device=stored.device), bits).long()
        total = (stored.long() + one) & 0xFFFFFFFF
        zeros = unpack(torch.where(total >= 2**31, total - 2**32, total).int(), bits, rows)
    codes = unpack(tensors["qweight"].T, bits, len(index))
    return tensors["scales"].float()[index].T * (codes - zeros[index].T).float()


def pack_quantized(tensors: dict, bits: int) -> torch.Tensor:
    """(rows, columns) from compressed-tensors' weight_packed, weight_scale (rows, groups), and, where they are there,
    weight_zero_point (packed along the rows) and weight_g_idx. Codes and zero points are stored with an offset of
    2^(bits−1). w = scale·(code − zero).
    """
    rows, cols = (int(n) for n in tensors["weight_shape"])
    scale = tensors["weight_scale"].float()
    groups = scale.shape[1]
    codes = unpack(tensors["weight_packed"], bits, cols)
    if "weight_zero_point" in tensors:
        zeros = unpack(tensors["weight_zero_point"].T, bits, rows).T
    else:
        zeros = torch.full((rows, groups), 2 ** (bits - 1), device=codes.device)
    index = tensors.get("weight_g_idx")
    if index is None or (index < 0).any():
        index = torch.arange(cols, device=codes.device) // (cols // groups)
    index = index.long()
    return scale[:, index] * (codes - zeros[:, index]).float()


def to_pack_quantized(codes, scale, zero, shape, bits: int) -> dict:
    """compressed-tensors' tensors of a matrix from unsigned codes, scale and zero (sets, 1), groups along the rows."""
    rows, cols = shape
    return {
        "weight_packed": pack(codes.reshape(rows, cols), bits),
        "weight_scale": scale.reshape(rows, -1),
        "weight_zero_point": pack(zero.reshape(rows, -1).T.contiguous(), bits).T.contiguous(),
        "weight_shape": torch.tensor([rows, cols]),
    }


def hqq(tensors: dict, bits: int) -> torch.Tensor:
    """(rows, columns) from codes (rows, words), scale and zero (rows, groups): w = (code − zero)·scale, zero not whole."""
    rows, cols = (int(n) for n in tensors["shape"])
    scale, zero = tensors["scale"].float(), tensors["zero"].float()
    codes = unpack(tensors["codes"], bits, cols).float().reshape(rows, scale.shape[1], -1)
    return ((codes - zero[..., None]) * scale[..., None]).reshape(rows, cols)


def stored(values, parts: dict, bits: int):
    """(values, codes, edge): dequantized fp32 (rows, columns), their codes, and half the median scale, from a layer's parts.

    Codes are those of GPTQ's qweight, compressed-tensors' weight_packed or HQQ's codes, as they are packed.
    """
    rows, cols = values.shape
    if "qweight" in parts:
        codes, scale = unpack(parts["qweight"].T, bits, cols), parts["scales"]
    elif "weight_packed" in parts:
        codes, scale = unpack(parts["weight_packed"], bits, cols), parts["weight_scale"]
    else:
        codes, scale = unpack(parts["codes"], bits, cols), parts["scale"]
    return values, codes, scale.float().median().item() / 2


def halves(blocks: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Bytes first … last of blocks (n, bytes) read as fp16 numbers, as fp32."""
    return blocks[:, first:last].contiguous().view(torch.float16).float()


def nibbles(bytes_: torch.Tensor) -> torch.Tensor:
    """(n, 2·b) codes from (n, b) bytes: all low halves, then all high halves."""
    return torch.cat([bytes_ & 15, bytes_ >> 4], 1)


def fifth_bits(bytes_: torch.Tensor) -> torch.Tensor:
    """(n, 32) zeros and ones from (n, 4) bytes, lowest bit first."""
    return (bytes_[:, :, None] >> torch.arange(8, device=bytes_.device) & 1).reshape(len(bytes_), -1)


def subscales(bytes_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """8 scales and 8 minima of 6 bits each from the 12 bytes of a Q4_K or Q5_K block."""
    low, middle, high = bytes_[:, :4], bytes_[:, 4:8], bytes_[:, 8:]
    scales = torch.cat([low & 63, (high & 15) | (low >> 6 << 4)], 1)
    minima = torch.cat([middle & 63, (high >> 4) | (middle >> 6 << 4)], 1)
    return scales.float(), minima.float()


def q4_0(b):
    """32 weights in 18 bytes: d·(code − 8)."""
    return halves(b, 0, 2) * (nibbles(b[:, 2:]).float() - 8)


def q5_0(b):
    """32 weights in 22 bytes: d·(code − 16), the fifth bits apart."""
    return halves(b, 0, 2) * ((nibbles(b[:, 6:]) | fifth_bits(b[:, 2:6]) << 4).float() - 16)


def q5_1(b):
    """32 weights in 24 bytes: d·code + m."""
    return halves(b, 0, 2) * (nibbles(b[:, 8:]) | fifth_bits(b[:, 4:8]) << 4).float() + halves(b, 2, 4)


def q8_0(b):
    """32 weights in 34 bytes: d·code, code a signed byte."""
    return halves(b, 0, 2) * b[:, 2:].contiguous().view(torch.int8).float()


def q4_k(b):
    """256 weights in 144 bytes, 8 sub-blocks of 32: d·scale·code − dmin·minimum."""
    scales, minima = subscales(b[:, 4:16])
    codes = b[:, 16:].reshape(-1, 4, 1, 32) >> torch.tensor([0, 4], device=b.device).reshape(1, 1, 2, 1) & 15
    codes = codes.reshape(-1, 8, 32).float()
    return ((halves(b, 0, 2) * scales)[..., None] * codes - (halves(b, 2, 4) * minima)[..., None]).reshape(len(b), 256)


def q5_k(b):
    """256 weights in 176 bytes: as Q4_K, with fifth bits (bit j of byte i belongs to weight i of sub-block j)."""
    scales, minima = subscales(b[:, 4:16])
    fifth = b[:, None, 16:48] >> torch.arange(8, device=b.device).reshape(1, 8, 1) & 1
    codes = b[:, 48:].reshape(-1, 4, 1, 32) >> torch.tensor([0, 4], device=b.device).reshape(1, 1, 2, 1) & 15
    codes = (codes.reshape(-1, 8, 32) | fifth << 4).float()
    return ((halves(b, 0, 2) * scales)[..., None] * codes - (halves(b, 2, 4) * minima)[..., None]).reshape(len(b), 256)


def q6_k(b):
    """256 weights in 210 bytes, 16 sub-blocks of 16: d·scale·(code − 32), scale a signed byte."""
    low, high = b[:, :128].reshape(-1, 2, 1, 64), b[:, 128:192].reshape(-1, 2, 1, 32)
    low = (low >> torch.tensor([0, 4], device=b.device).reshape(1, 1, 2, 1) & 15).reshape(-1, 2, 4, 32)
    high = high >> torch.tensor([0, 2, 4, 6], device=b.device).reshape(1, 1, 4, 1) & 3
    codes = (low | high << 4).reshape(-1, 16, 16).float() - 32
    scales = b[:, 192:208].contiguous().view(torch.int8).float()
    return ((halves(b, 208, 210) * scales)[..., None] * codes).reshape(len(b), 256)


READERS = {"q4_0": q4_0, "q5_0": q5_0, "q5_1": q5_1, "q8_0": q8_0, "q4_k": q4_k, "q5_k": q5_k, "q6_k": q6_k}


def gguf(blocks: torch.Tensor, kind: str) -> torch.Tensor:
    """(rows, columns) from the bytes (rows, bytes per row) of llama.cpp's blocks of a kind."""
    _, width, size = SIZES[kind]
    rows = len(blocks)
    return READERS[kind](blocks.reshape(-1, size)).reshape(rows, blocks.shape[1] // size * width)
