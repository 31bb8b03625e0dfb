"""Microbatches from a producer process, or from this thread, to a loader."""
