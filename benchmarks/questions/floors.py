"""What needs no loader: the limits that every hand-off is seen against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from benchmarks.sources.ready import ENDLESS, POOL_SIZE, Case, PoolDataset, pool_of


class _WarmCopies:
    """The bytes of each microbatch, copied once into buffers that stay warm."""

    def __init__(self, case: Case) -> None:
        self._pool = pool_of(case)
        self._buffers = {key: np.empty_like(array) for key, array in self._pool[0].items()}
        self._views = {key: torch.from_numpy(buffer) for key, buffer in self._buffers.items()}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for index in range(ENDLESS):
            for key, array in self._pool[index % POOL_SIZE].items():
                np.copyto(self._buffers[key], array)
            yield self._views


@contextmanager
def memcpy(case: Case) -> Iterator[Iterable[Any]]:
    """The limit for anything that copies once."""
    yield _WarmCopies(case)


@contextmanager
def plain_loop(case: Case) -> Iterator[Iterable[Any]]:
    """No hand-off and no loader: the dataset's items in order."""
    dataset = PoolDataset(case)
    yield (dataset[index] for index in range(len(dataset)))
