"""The plan of a sweep: its configuration, checked, and what follows from it. Nothing here imports torch."""
