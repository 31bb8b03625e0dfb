"""``python -m benchmarks.device``: device mode against the other ways to the GPU."""
