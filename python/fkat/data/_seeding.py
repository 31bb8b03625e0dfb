"""Randomness that depends on where a microbatch stands, and on nothing else.

Python, numpy and torch are seeded for every microbatch from (seed, dp_rank, epoch, position). So
what a random augmentation does is the same for any number of producers, for any prefetch depth, and
wherever a run was resumed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch

_FACTORY = -1  # the "epoch" in which the factory itself runs
_SHARD = -2  # the "epoch" from which shards get seeds of their own
_WORKER = -1  # the "position" of the first worker in each epoch; the next are below it


@dataclass(frozen=True)
class Seeder:
    """Seeds the global random generators of one data-parallel rank.

    Args:
        seed: The user's seed, any integer.
        dp_rank: Data-parallel rank; ranks that share one see the same random numbers.
        first: Position of the first microbatch that is seeded for.
        step: Positions from one such microbatch to the next.
    """

    seed: int
    dp_rank: int
    first: int = 0
    step: int = 1

    def seed_microbatch(self, epoch: int, position: int) -> None:
        """Seed for microbatch ``position`` (from 0) of ``epoch`` (from 0)."""
        position = self.first + self.step * position
        self._seed_all(derive_seed(self.seed, self.dp_rank, epoch, position))

    def seed_factory(self) -> None:
        """Seed for building the dataset and the loader."""
        self._seed_all(derive_seed(self.seed, self.dp_rank, _FACTORY, 0))

    def seed_worker(self, epoch: int, number: int) -> int:
        """Seed for what worker ``number`` does before its first microbatch; the seed."""
        value = derive_seed(self.seed, self.dp_rank, epoch, _WORKER - number)
        self._seed_all(value)
        return value

    def of_worker(self, number: int, num_workers: int) -> Seeder:
        """The seeder of the microbatches of one worker, counted by itself.

        They have the positions that they would have if all workers took turns without an end: a
        worker's random numbers do not depend on how far the others are.
        """
        return replace(self, first=number, step=num_workers)

    def of_shard(self, number: int) -> Seeder:
        """The seeder of shard ``number`` (from 0) of an epoch, whose positions are its own."""
        return Seeder(derive_seed(self.seed, self.dp_rank, _SHARD, number), 0)

    @staticmethod
    def _seed_all(value: int) -> None:
        random.seed(value)
        np.random.seed(value & 0xFFFF_FFFF)
        # Not torch.manual_seed: that also visits every accelerator, at 270 us a call.
        torch.default_generator.manual_seed(value)


def derive_seed(seed: int, dp_rank: int, epoch: int, position: int) -> int:
    """A 63-bit seed, a pure function of its arguments on every machine (BLAKE2b, RFC 7693)."""
    text = struct.pack("<Qqqq", seed % 2**64, dp_rank, epoch, position)
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Give the caller's global random generators back as they were."""
    python, numpy, torch_cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_cpu)
