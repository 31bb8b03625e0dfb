"""What the sampler of a map-style ``DataLoader`` draws in one epoch, for one rank.

Microbatches before the place to begin at are skipped here, by their indices: no data is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from fkat.data._seeding import Seeder
from fkat.data._source.digest import extend, extend_all
from fkat.data._source.fingerprint import Start
from fkat.data._source.note import NO_DIGEST, Ends, Mark

# These draw from torch's global generator before their first index, or never.
_DRAW_AT_FIRST = (
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

_INDICES_AT_ONCE = 4096  # no more are held while microbatches are skipped


class Part(NamedTuple):
    """Which microbatches of an epoch are this rank's: number ``rank`` of every ``size``.

    With ``drop_last`` the last ones are nobody's unless there is one for each rank.
    """

    rank: int = 0
    size: int = 1
    drop_last: bool = True

    def length(self, count: int) -> int:
        """How many of ``count`` microbatches in a row are this rank's."""
        others = self.size - 1 if self.drop_last else self.rank
        return max(count - others + self.size - 1, 0) // self.size

    def is_last(self, count: int, total: int | None) -> bool:
        """Whether nothing more comes for this rank after ``count`` of ``total`` (if known)."""
        return total is not None and self.length(total - count) == 0


WHOLE = Part()  # every microbatch


# One microbatch to be made: its place in the epoch, its indices, the place behind it.
Item = tuple[int, Any, Mark]


class Indices:
    """The items of an epoch from ``start`` on.

    Drawing from the sampler begins here, in the order in which a ``DataLoader`` draws random
    numbers, and each draw under the seed of its position.

    Attributes:
        total: Microbatches in the epoch, of all ranks; None if not known.
        differences: What was found to be other than ``start`` expects, in words.
    """

    def __init__(
        self, loader: DataLoader[Any], seeder: Seeder, epoch: int, part: Part, start: Start
    ) -> None:
        self._seeder = seeder
        self._epoch = epoch
        self._part = part
        self.total = known_length(index_sampler(loader))
        self._digest = NO_DIGEST
        self._count = 0
        seeder.seed_microbatch(epoch, 0)
        self._drawn = iter(index_sampler(loader))
        draw_base_seed(loader, epoch)
        self._num_at_once = 1
        if _draws_at_first(loader):
            batch_size = getattr(loader.batch_sampler, "batch_size", 1)
            self._num_at_once = max(1, _INDICES_AT_ONCE // batch_size)
        else:
            self._drawn = self._seeded(self._drawn)
        self.differences = self._skip(start)

    def __iter__(self) -> Iterator[Item]:
        return self._all() if self._part.size == 1 else self._dealt()

    def _all(self) -> Iterator[Item]:
        seed, epoch = self._seeder.seed_microbatch, self._epoch
        before = self._digest
        for position, index in enumerate(self._draws(), self._count):
            seed(epoch, position)
            ends = Ends.EPOCH if position + 1 == self.total else Ends.NOTHING
            yield position, index, Mark(ends, 0, position + 1, self._digest, b"", before)
            before = self._digest

    def _dealt(self) -> Iterator[Item]:
        rank, size, drop_last = self._part
        draws = self._draws()
        while True:
            before = self._digest
            row = list(itertools.islice(draws, size))
            if len(row) < (size if drop_last else rank + 1):
                return
            position, self._count = self._count, self._count + len(row)
            is_last = self._part.is_last(self._count, self.total)
            ends = Ends.EPOCH if is_last else Ends.NOTHING
            # Whatever the sampler drew, the sample is made from the same random numbers.
            self._seeder.seed_microbatch(self._epoch, position + rank)
            mark = Mark(ends, 0, self._count, self._digest, before=before)
            yield position + rank, row[rank], mark

    def _seeded(self, drawn: Iterator[Any]) -> Iterator[Any]:
        """Each of ``drawn``, drawn under the seed of its position."""
        for position, index in enumerate(drawn, 1):
            yield index
            self._seeder.seed_microbatch(self._epoch, position)

    def _draws(self) -> Iterator[Any]:
        for index in self._drawn:
            self._digest = extend(self._digest, index)
            yield index

    def _skip(self, start: Start) -> list[str]:
        """Go to ``start``; what was found to be other than expected, in words."""
        expected = start.expected()
        found: list[str] = []
        agreed = 0
        for offset in sorted({*expected, start.offset}):
            self._advance(offset)
            if not found and expected.get(offset, self._digest) != self._digest:
                found.append(
                    f"the indices of microbatches {agreed} to {offset - 1} (counted from 0) of "
                    f"epoch {self._epoch} are others than before"
                )
            agreed = offset
        if self._count < start.offset:
            found = [
                f"epoch {self._epoch} has {self._count} microbatches, {start.offset} were finished"
            ]
        return found

    def _advance(self, offset: int) -> None:
        """As `_draws`, in long strides: the time to the first microbatch pays for it."""
        while self._count < offset:
            num_at_once = min(self._num_at_once, offset - self._count)
            drawn = list(itertools.islice(self._drawn, num_at_once))
            if not drawn:
                return
            self._digest = extend_all(self._digest, drawn)
            self._count += len(drawn)


def index_sampler(loader: DataLoader[Any]) -> Any:
    """What draws the indices of a microbatch."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def draw_base_seed(loader: DataLoader[Any], epoch: int) -> None:
    """Draw the seed that ``DataLoader`` draws for its workers, before the sampler draws the order.

    Without this a shuffled epoch would come in another order than the ``DataLoader``'s. It draws
    none for workers that have theirs from the first epoch.
    """
    if loader.generator is not None and loader.persistent_workers and epoch > 0:
        return
    torch.empty((), dtype=torch.int64).random_(generator=loader.generator)


def known_length(iterable: Any) -> int | None:
    """Its len(), or None; a base class may say NotImplementedError."""
    try:
        return len(iterable)
    except (TypeError, NotImplementedError):
        return None


def _draws_at_first(loader: DataLoader[Any]) -> bool:
    sampler = loader.sampler
    if loader.batch_sampler is not None:
        if type(loader.batch_sampler) is not BatchSampler:
            return False
        sampler = loader.batch_sampler.sampler
    return type(sampler) in _DRAW_AT_FIRST
