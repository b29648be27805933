"""Models on disk and in memory: loading, storing as differences, quantizing, comparing."""
