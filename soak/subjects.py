"""Loaders of every kind, drawn at random."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from typing import Any

from fkat.data import ShardedDataLoader, ShmDataLoader
from soak.payload import EPOCH_LENGTH, SHARD_LENGTHS, Shape, Where, items, items_of_shard

Loader = ShmDataLoader[Any] | ShardedDataLoader[Any]

METHODS = ("fork", "spawn", "forkserver")
_SHAPES = (
    Shape(max_words=50, max_pause_s=0.0),
    Shape(max_words=50, max_pause_s=0.005),
    Shape(max_words=50_000, max_pause_s=0.002),
    Shape(max_words=1_000_000, max_pause_s=0.0),
)
_BUDGET_NBYTES = 64 << 20


@dataclass(frozen=True)
class Subject:
    """What decides which microbatches there are.

    Attributes:
        seed: The loader's.
        is_sharded: Which of the two loaders.
        shape: Of its microbatches.
    """

    seed: int
    is_sharded: bool
    shape: Shape

    @property
    def num_microbatches(self) -> int:
        """Of an epoch."""
        return sum(SHARD_LENGTHS) if self.is_sharded else EPOCH_LENGTH

    def where(self, epoch: int, position: int) -> Where:
        """The place of the microbatch at ``position`` of ``epoch``."""
        if not self.is_sharded:
            return Where(epoch, 0, position)
        for shard, length in enumerate(SHARD_LENGTHS):
            if position < length:
                return Where(epoch, shard, position)
            position -= length
        raise IndexError(f"an epoch has {self.num_microbatches} microbatches")


@dataclass(frozen=True)
class Setup:
    """What must not make a difference to the microbatches.

    Attributes:
        method: How processes are started.
        num_workers: Of the DataLoader in the producer.
        num_prefetches: Microbatches.
        num_producers: Of a sharded loader; 0 for one that opens shards on demand.
        max_restarts: In a row.
    """

    method: str
    num_workers: int
    num_prefetches: int
    num_producers: int
    max_restarts: int


def draw_subject(chance: random.Random) -> Subject:
    """A random one."""
    return Subject(chance.randrange(1000), chance.random() < 0.5, chance.choice(_SHAPES))


def draw_setup(chance: random.Random) -> Setup:
    """A random one."""
    # A new interpreter takes seconds to import torch, in which nothing else happens here.
    method = chance.choices(METHODS, weights=(10, 1, 8))[0]
    return Setup(
        method,
        num_workers=chance.choice((0, 0, 2)),
        num_prefetches=chance.choice((0, 1, 4, 16, -1)),
        num_producers=chance.choice((0, 1) if method == "spawn" else (0, 1, 2, 3)),
        max_restarts=chance.choice((0, 3, 3)),
    )


def open_loader(subject: Subject, setup: Setup) -> Loader:
    """A new loader."""
    if not subject.is_sharded:
        return ShmDataLoader(
            subject.seed,
            partial(items, subject.shape, setup.num_workers),
            setup.num_prefetches,
            multiprocessing_context=setup.method,
            memory_budget_nbytes=_BUDGET_NBYTES,
            max_restarts=setup.max_restarts,
        )
    return ShardedDataLoader(
        subject.seed,
        [str(shard) for shard in range(len(SHARD_LENGTHS))],
        partial(items_of_shard, subject.shape, setup.num_workers),
        setup.num_producers,
        setup.num_prefetches,
        multiprocessing_context=setup.method,
        memory_budget_nbytes=_BUDGET_NBYTES,
        max_restarts=setup.max_restarts,
    )
