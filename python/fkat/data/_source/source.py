"""What the factory returned, as a stream of microbatches that can begin anywhere.

A plain ``DataLoader`` is read as a specification: over a map-style dataset (see `indexed`), and
over an iterable one if it has workers (see `stream_worker`). Anything else is iterated as it is,
and begins anywhere by its own state if it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from torch.utils.data import DataLoader

from fkat.data._parts import set_epoch_of
from fkat.data._seeding import Seeder
from fkat.data._source.describe import describe
from fkat.data._source.fingerprint import Start, differences, mismatches
from fkat.data._source.indexed import IndexedLoader
from fkat.data._source.indices import WHOLE, Part, known_length
from fkat.data._source.iterables import IterablePass
from fkat.data._source.kind import dealing_of, is_map_style
from fkat.data._source.note import ONE_PRODUCER, Dealing, Described, Produced
from fkat.data._source.stream_worker import StreamWorker
from fkat.data.errors import ResumeMismatchError

_BEGINNING = Start()


class Source:
    """Microbatches of a loader, by epoch and position.

    Args:
        factory: Returns the loader. Called once, or once an epoch if what it returns is good for
            one.
        seeder: Seeds the global random generators before each microbatch.
        part: Which of the microbatches are this rank's.
        worker: Number of this process among the workers of a ``DataLoader``; None to let it have
            workers of its own.
    """

    def __init__(
        self,
        factory: Callable[[], Iterable[Any]],
        seeder: Seeder,
        part: Part = WHOLE,
        worker: int | None = None,
    ) -> None:
        self._factory = factory
        self._seeder = seeder
        self._part = part
        self._worker_number = worker
        self._is_used_up: bool
        self._indexed: IndexedLoader | None
        self._stream: StreamWorker | None  # neither: it is iterated
        self._dealing: Dealing
        self._use(self._build())

    @property
    def num_workers(self) -> int:
        """How many processes the microbatches are dealt to, this one included."""
        return self._dealing.num_workers

    def length(self, start: Start = _BEGINNING) -> int | None:
        """This rank's microbatches from ``start`` to the end of an epoch; None if not known."""
        total = known_length(self._loader)
        return None if total is None else self._part.length(total - start.offset)

    def iterate(
        self, epoch: int, start: Start = _BEGINNING, num_before: int = 0
    ) -> Iterator[Produced]:
        """This rank's microbatches of ``epoch`` from ``start`` on, or this worker's among them.

        Args:
            epoch: Number of the epoch.
            start: Where to begin.
            num_before: How many of this rank's come before that.

        Raises:
            ResumeMismatchError: The data is not what ``start`` expects.
        """
        if self._is_used_up:
            self._use(self._build())
        loader = self._loader
        self._is_used_up = isinstance(loader, Iterator)  # good for one epoch
        self._check_workers(epoch, start, num_before)
        described = describe(loader)
        yield Described(described, self._dealing)
        changed = differences(start.described, described)
        if self._indexed is not None:
            yield from self._indexed.iterate(epoch, start, num_before, changed)
            return
        yield from mismatches(changed, start, epoch)
        if self._stream is not None:
            yield from self._stream.iterate(epoch, start)
            return
        set_epoch_of(loader, epoch)
        total, name = known_length(loader), f"a {type(loader).__qualname__}"
        yield from IterablePass(loader, self._seeder, epoch, self._part, start, total, name)

    def _use(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self._is_used_up = False
        self._indexed = self._stream = None
        number = self._worker_number
        self._dealing = ONE_PRODUCER if number is None else dealing_of(loader, self._part)
        if is_map_style(loader):
            self._indexed = IndexedLoader(loader, self._seeder, self._part, number)
        elif number is not None and not self._dealing.is_by_number:
            self._stream = StreamWorker(cast(DataLoader[Any], loader), number, self._seeder)
        elif isinstance(loader, DataLoader):
            loader.in_order = True  # it is resumed by counting

    def _build(self) -> Iterable[Any]:
        self._seeder.seed_factory()
        try:
            loader = self._factory()
        except StopIteration as error:  # it would end the trainer's loop silently
            raise RuntimeError("dataloader_factory raised StopIteration") from error
        if not isinstance(loader, Iterable):
            raise TypeError(
                f"dataloader_factory must return an iterable of microbatches, it returned a "
                f"{type(loader).__name__}"
            )
        if isinstance(loader, DataLoader):
            # Pinning would create a CUDA context here, of no use to the trainer.
            loader.pin_memory = False
        return loader

    def _check_workers(self, epoch: int, start: Start, num_before: int) -> None:
        """Where each of so many workers stands tells others nothing, whether strict or not."""
        dealing = self._dealing
        if start.workers and (len(start.workers) != dealing.num_workers or self._part.size > 1):
            raise ResumeMismatchError(
                f"the state says where each of {len(start.workers)} workers stands in epoch "
                f"{epoch}; this loader is run by {dealing.num_workers}, for {self._part.size} "
                f"rank(s). Resume as it was saved: with num_workers={len(start.workers)} in the "
                "DataLoader, with multiprocessing, without dp_size"
            )
        if dealing.counts_each and start.offset != num_before:
            raise ResumeMismatchError(
                f"the state was saved by several ranks, within epoch {epoch}: what they had does "
                "not say how far each worker of this loader is. Resume with as many ranks, or "
                "with num_workers=0, or (a map-style dataset) with in_order=True"
            )
