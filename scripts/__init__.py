"""Programs of the workflow (this level) and the plugins and shared code they use (folders)."""

from scripts.core import instructions

instructions.alike()  # here, because whatever computes imports this first
