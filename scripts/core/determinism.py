"""The same bits on every run."""

import os

import torch


def deterministic() -> None:
    """Ask torch for the same bits on every run (where a kernel has no such variant, it only warns)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory guards against reads of uninitialised values; there are none here, and it costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False
