"""What needs no loader: the limits that every hand-off is seen against."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
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


class _Resident:
    """The same microbatch again and again, made once."""

    def __init__(self, case: Case, bell: Connection | None = None) -> None:
        self._microbatch = PoolDataset(case)[0]
        self._bell = bell

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            if self._bell is not None:
                self._bell.send_bytes(b"1")
            yield self._microbatch


@contextmanager
def resident(case: Case) -> Iterator[Iterable[Any]]:
    """No loader: the microbatch is there."""
    yield _Resident(case)


def _copy_at_each(bell: Connection, case: Case) -> None:
    # As fkat's producers: a normal task would preempt the trainer for the whole copy.
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    buffers = [
        {key: np.empty_like(array) for key, array in arrays.items()}
        for arrays in (*pool_of(case), *pool_of(case))  # as many as the slots that take turns
    ]
    index = 0
    while bell.recv_bytes() == b"1":
        for key, array in pool_of(case)[index % POOL_SIZE].items():
            np.copyto(buffers[index % len(buffers)][key], array)
        index += 1


@contextmanager
def copied_beside(case: Case) -> Iterator[Iterable[Any]]:
    """As `resident`, while another process copies a microbatch for each that is taken.

    What of a step's time that takes away, no loader with workers can give back.
    """
    theirs, ours = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_copy_at_each, args=(theirs, case))
    process.start()
    try:
        yield _Resident(case, ours)
    finally:
        ours.send_bytes(b"0")
        process.join()
