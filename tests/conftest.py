"""What holds for all tests."""

import scripts  # noqa: F401 (before a test's own imports compute anything: scripts/core/instructions.py)
