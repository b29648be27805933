"""Texts of several lengths in one batch: padding on the left, and what each position sees."""

import torch


def left_padded(rests: list[list[int]], shared: int, new_tokens: int):
    """Ids (B, longest) and mask (B, shared + longest + new tokens) of what follows a shared beginning.

    The padding stands between the shared beginning and the rest, so that all rows end in the last column of the ids.
    """
    longest = max(map(len, rests))
    ids = torch.zeros(len(rests), longest, dtype=torch.long)
    mask = torch.zeros(len(rests), shared + longest + new_tokens, dtype=torch.long)
    mask[:, :shared] = 1
    for row, rest in enumerate(rests):
        ids[row, longest - len(rest) :] = torch.tensor(rest)
        mask[row, shared + longest - len(rest) :] = 1
    return ids, mask


def first_look(mask):
    """(B, 1, T, T) bool: what the positions of a mask (B, T) see of each other. Padding sees itself.

    Where it sees nothing, some kernels make it NaN; then all is NaN from the next layer on, since 0 · NaN is.
    """
    before = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device).tril()
    return mask[:, None, None].bool() & before | before.triu()
