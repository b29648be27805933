"""One measure per file; see benchmarks/__init__.py."""
