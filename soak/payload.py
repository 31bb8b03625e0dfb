"""Microbatches that follow from where they stand, so that any copy of one can be checked."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from soak.left import note_worker

EPOCH_LENGTH = 60
SHARD_LENGTHS = (9, 1, 0, 14, 6, 11, 3, 8)
"""Of the shards "0", "1", ...; one has nothing in it."""

Microbatch = dict[str, Any]


class Where(NamedTuple):
    """The place of a microbatch.

    Attributes:
        epoch: Its epoch.
        shard: Its shard; 0 where there are no shards.
        offset: Its number in the shard (in the epoch).
    """

    epoch: int
    shard: int
    offset: int


@dataclass(frozen=True)
class Shape:
    """How large and how slow microbatches are.

    Attributes:
        max_words: They have fewer 8-byte words than this.
        max_pause_s: They take up to so long to make.
    """

    max_words: int
    max_pause_s: float


class Payloads(Dataset[Microbatch]):
    """The microbatches of one shard."""

    def __init__(self, shard: int, length: int, shape: Shape) -> None:
        self._shard = shard
        self._length = length
        self._shape = shape
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the microbatches of that epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Microbatch:
        where = Where(self._epoch, self._shard, index)
        time.sleep(random.uniform(0.0, self._shape.max_pause_s))
        words = _words(where, self._shape.max_words)
        return {
            "where": torch.tensor(where),
            "words": torch.from_numpy(words),
            "last bytes": words[-100:].view(np.uint8),
            "drawn": torch.rand(2),
        }


def items(shape: Shape, num_workers: int) -> DataLoader[Microbatch]:
    """The loader of an epoch without shards."""
    return _loader(Payloads(0, EPOCH_LENGTH, shape), num_workers)


def items_of_shard(shape: Shape, num_workers: int, shard: str) -> DataLoader[Microbatch]:
    """The loader of one shard."""
    return _loader(Payloads(int(shard), SHARD_LENGTHS[int(shard)], shape), num_workers)


def is_whole(microbatch: Microbatch, where: Where, shape: Shape) -> bool:
    """Whether it is, bit for bit, the microbatch of that place."""
    words = _words(where, shape.max_words)
    return (
        tuple(microbatch["where"].tolist()) == where
        and np.array_equal(microbatch["words"].numpy(), words)
        and np.array_equal(microbatch["last bytes"], words[-100:].view(np.uint8))
    )


def nbytes_of(microbatch: Microbatch) -> int:
    """Bytes of its tensors and arrays."""
    return sum(value.nbytes for value in microbatch.values())


def _loader(dataset: Payloads, num_workers: int) -> DataLoader[Microbatch]:
    # Forked, for time's sake: how workers start is not what is tried here.
    context = "fork" if num_workers else None
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context=context,
        worker_init_fn=_begin_worker,
    )


def _begin_worker(worker: int) -> None:
    del worker
    note_worker()
    # When its producer was killed it would print that it has lost its connection.
    sys.excepthook = lambda *_: None


def _words(where: Where, max_words: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    base = (where.epoch * 1_000_003 + where.shard * 10_007 + where.offset) * 7919
    # An odd stride that depends on the place: no microbatch is a part of another one.
    return np.arange(base * 31 % max_words, dtype=np.int64) * (2 * base + 1) + base
