"""The same bits on every run."""

import os

import torch


def deterministic() -> None:
    """Ask torch for the same bits on every run. On a GPU an operation that has no such kernel ends the run instead of only warning.

    With warnings alone the backward passes of attention (flash, memory-efficient, cuDNN) keep their atomic additions. torch's list
    of operations without such a kernel holds none of a decoder's or of the losses here.
    """
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS reads it when it is first used
    os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")  # transformers hands it to the package flash-attn
    torch.use_deterministic_algorithms(True, warn_only=not torch.cuda.is_available())
    # Filling fresh memory guards against reads of uninitialised values; there are none here, and it costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False
