"""What loaders do when things go wrong, measured: ``python -m benchmarks.reliability``."""
