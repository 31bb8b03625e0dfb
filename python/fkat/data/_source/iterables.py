"""A loader that can only be iterated, as microbatches that begin anywhere.

With a state of its own (torchdata's ``StatefulDataLoader``, a dataset of Hugging Face) it begins by
that; else by being read again from the beginning.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from fkat.data._seeding import Seeder
from fkat.data._source import stateful
from fkat.data._source.fingerprint import Start
from fkat.data._source.indices import Part
from fkat.data._source.note import NO_DIGEST, Delivered, Ends, Mark, Notice
from fkat.data._state import explain
from fkat.data.errors import ResumeMismatchError

_PATIENCE_S = 1.0  # of a replay, before its progress is shown


class IterablePass:
    """One epoch of ``loader`` from ``start`` on, for one rank.

    Every rank reads the microbatches of all of them, and keeps its own.

    Args:
        loader: The microbatches.
        seeder: Seeds for each of them.
        epoch: Number of the epoch.
        part: Which of them are this rank's.
        start: Where to begin.
        total: How many there are; None if that is not known.
        name: What they are of, for the user.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        seeder: Seeder,
        epoch: int,
        part: Part,
        start: Start,
        total: int | None,
        name: str,
    ) -> None:
        self._loader = loader
        self._seeder = seeder
        self._epoch = epoch
        self._part = part
        self._start = start
        self._total = total
        self._name = name
        self._owner = stateful.owner_of(loader)
        self._has_looked = False
        self._count = 0

    def __iter__(self) -> Iterator[Delivered | Notice]:
        self._seeder.seed_microbatch(self._epoch, 0)
        if self._start.inner and self._owner is not None:
            self._owner.load_state_dict(pickle.loads(self._start.inner))
            self._count = self._start.offset
        microbatches = iter(self._loader)
        if self._count < self._start.offset:
            yield Notice(_advice(self._name, self._start.offset))
            self._replay(microbatches)
        yield from self._rows(microbatches)

    def _replay(self, microbatches: Iterator[Any]) -> None:
        numbers = range(self._start.offset)
        for _ in tqdm(numbers, "replaying", unit=" microbatches", delay=_PATIENCE_S):
            self._seeder.seed_microbatch(self._epoch, self._count)
            try:
                next(microbatches)
            except StopIteration:
                found = f"epoch {self._epoch} has {self._count} microbatches, {len(numbers)} were"
                text = explain([f"{found} finished"], "read again from its beginning")
                raise ResumeMismatchError(text) from None
            self._count += 1

    def _rows(self, microbatches: Iterator[Any]) -> Iterator[Delivered | Notice]:
        rank, size, drop_last = self._part
        while True:
            mine = []
            row_begin = self._count
            for microbatch in self._next_row(microbatches):
                if self._count == row_begin + rank + 1:
                    mine.append(microbatch)
                del microbatch  # a large one is freed before the next is made
            if not mine or (drop_last and self._count < row_begin + size):
                return
            if complaint := self._drop_owner_of_unplain_state():
                yield Notice(complaint)
            yield Delivered(mine.pop(), self._mark(_has_ended(microbatches)))

    def _next_row(self, microbatches: Iterator[Any]) -> Iterator[Any]:
        for _ in range(self._part.size):
            self._seeder.seed_microbatch(self._epoch, self._count)
            try:
                made = [next(microbatches)]
            except StopIteration:
                return
            self._count += 1
            yield made.pop()

    def _drop_owner_of_unplain_state(self) -> str:
        """Looked at once an epoch: what is plain at first is taken to stay so."""
        if self._owner is None or self._has_looked:
            return ""
        self._has_looked = True
        owner = self._owner
        why = stateful.why_not_plain(owner.state_dict())
        if not why:
            return ""
        self._owner = None
        return (
            f"the state of {type(owner).__qualname__} cannot be in a checkpoint, so resuming will "
            f"read the epoch again from its beginning: keep it to plain types and tensors ({why})"
        )

    def _mark(self, has_ended: bool) -> Mark:
        inner = b"" if self._owner is None else pickle.dumps(self._owner.state_dict())
        is_last = has_ended or self._part.is_last(self._count, self._total)
        ends = Ends.EPOCH if is_last else Ends.NOTHING
        return Mark(ends, 0, self._count, NO_DIGEST, inner)


def _has_ended(microbatches: Iterator[Any]) -> bool:
    """Whether a ``DataLoader`` found its iterable dataset exhausted: its last batch was short.

    The dataset's state may then be that of its next epoch.
    """
    return bool(getattr(getattr(microbatches, "_dataset_fetcher", None), "ended", False))


def _advice(name: str, count: int) -> str:
    return (
        f"{count} microbatches of {name} are read again to get to where the run stopped, since "
        "it keeps no state. To begin there at once, use a map-style dataset, or give the dataset "
        "or the loader state_dict() and load_state_dict() (as torchdata's StatefulDataLoader has)"
    )
