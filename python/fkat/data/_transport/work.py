"""What a producer is to do: everything that the user said about the data, and where to begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fkat.data._seeding import Seeder
from fkat.data._source.fingerprint import Start
from fkat.data._source.indices import WHOLE, Part
from fkat.data._source.note import Produced
from fkat.data._source.source import Source


class PassSource(Protocol):
    """Microbatches by pass; lives in the producer."""

    @property
    def num_workers(self) -> int:
        """How many producers share the work and its memory budget, this one included."""

    def iterate(self, epoch: int, start: int) -> Iterator[Produced]:
        """What to deliver of ``epoch``; ``start`` is what the trainer began the pass with."""

    def length(self, epoch: int) -> int | None:
        """Microbatches in ``epoch``, those before a resume included; None when not known."""


class Work(Protocol):
    """Can be pickled where a producer is not forked."""

    @property
    def factory(self) -> Callable[..., Iterable[Any]]:
        """The user's function, to be named when it cannot be pickled."""

    @property
    def profiler(self) -> Any:
        """A Lightning profiler to run the producer under, or None."""

    def open(self) -> PassSource:
        """Run the user's factory."""


@dataclass(frozen=True)
class Resume:
    """An epoch that does not begin at its beginning.

    Attributes:
        epoch: Which one.
        start: Where it begins.
        num_finished: Microbatches of it that each rank has had before.
    """

    epoch: int
    start: Start
    num_finished: int


@dataclass(frozen=True)
class LoaderWork:
    """The microbatches of one loader, epoch after epoch, or those of one of its workers.

    Attributes:
        worker: As in `Source`.
    """

    factory: Callable[[], Iterable[Any]]
    seeder: Seeder
    profiler: Any = None
    part: Part = WHOLE
    resume: Resume | None = None
    worker: int | None = None

    def of_worker(self, number: int) -> LoaderWork:
        """The part of worker ``number``."""
        return replace(self, worker=number)

    def open(self) -> PassSource:
        """Run the user's factory."""
        return _LoaderPasses(self)


class _LoaderPasses:
    def __init__(self, work: LoaderWork) -> None:
        self._source = Source(work.factory, work.seeder, work.part, work.worker)
        self._resume = work.resume

    @property
    def num_workers(self) -> int:
        return self._source.num_workers

    def iterate(self, epoch: int, start: int) -> Iterator[Produced]:
        del start
        if self._resume is not None and self._resume.epoch == epoch:
            return self._source.iterate(epoch, self._resume.start, self._resume.num_finished)
        return self._source.iterate(epoch)

    def length(self, epoch: int) -> int | None:
        if self._resume is None or self._resume.epoch != epoch:
            return self._source.length()
        rest = self._source.length(self._resume.start)
        return None if rest is None else self._resume.num_finished + rest
