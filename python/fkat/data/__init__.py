"""Data loaders that a GPU does not wait for."""

from fkat.data.shm import ShmDataLoader

__all__ = ["ShmDataLoader"]
