"""What the factory returned, as a stream of microbatches that can begin anywhere.

A plain ``DataLoader`` over a map-style dataset is read as a specification (dataset, sampler,
collate_fn): the loop is run here, so that beginning at microbatch k skips indices and reads no
data. Anything else is iterated as it is, and begins anywhere by its own state if it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, MapDataPipe

from fkat.data._parts import set_epoch_of
from fkat.data._seeding import Seeder
from fkat.data._source.describe import describe
from fkat.data._source.fingerprint import Start, differences
from fkat.data._source.generators import EpochGenerators
from fkat.data._source.indices import (
    WHOLE,
    Indices,
    Part,
    draw_base_seed,
    index_sampler,
    known_length,
)
from fkat.data._source.iterables import IterablePass
from fkat.data._source.note import Delivered, Described, Notice, Produced
from fkat.data._source.worker import Worker
from fkat.data._source.workers import WorkerLoader, fetch
from fkat.data._state import explain
from fkat.data.errors import ResumeMismatchError

_BEGINNING = Start()


class Source:
    """Microbatches of a loader, by epoch and position.

    Args:
        factory: Returns the loader. Called once, or once an epoch if it returns an iterator.
        seeder: Seeds the global random generators before each microbatch.
        part: Which of the microbatches are this rank's.
        worker: Number of this process among those that a map-style ``DataLoader`` with workers is
            dealt to; None to let it have workers of its own.
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
        self._generators: EpochGenerators | None
        self._worker: Worker | None  # this process
        self._workers: WorkerLoader | None  # of its own
        self._use(self._build())

    @property
    def num_workers(self) -> int:
        """How many processes the microbatches are dealt to, this one included."""
        return 1 if self._worker is None else self._worker.num_workers

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
        described = describe(loader)
        yield Described(described, self.num_workers)
        changed = differences(start.described, described)
        if isinstance(loader, DataLoader) and self._generators is not None:
            if self._worker is not None:
                self._worker.begin(epoch)
            self._generators.enter(epoch, self._draw_epoch)
            set_epoch_of(loader, epoch)
            items = Indices(loader, self._seeder, epoch, self._part, start)
            yield from _mismatches([*changed, *items.differences], start, epoch)
            yield from self._iterate_map(loader, epoch, items, num_before)
            self._generators.leave(epoch)
        else:
            set_epoch_of(loader, epoch)
            yield from _mismatches(changed, start, epoch)
            yield from IterablePass(loader, self._seeder, epoch, self._part, start)

    def _use(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self._is_used_up = False
        self._generators = self._worker = self._workers = None
        if isinstance(loader, DataLoader) and _is_map_style(loader):
            self._generators = EpochGenerators(loader)
            if loader.num_workers > 0:
                if self._worker_number is None:
                    self._workers = WorkerLoader(loader, self._seeder)
                else:
                    self._worker = Worker(loader, self._worker_number, self._seeder)

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

    def _draw_epoch(self, epoch: int) -> None:
        """Draw the indices of a whole epoch, for what that does to the user's generators."""
        assert isinstance(self._loader, DataLoader)
        set_epoch_of(self._loader, epoch)
        self._seeder.seed_microbatch(epoch, 0)
        drawn = iter(index_sampler(self._loader))
        draw_base_seed(self._loader, epoch)
        for _ in drawn:
            pass

    def _iterate_map(
        self, loader: DataLoader[Any], epoch: int, items: Indices, num_before: int
    ) -> Iterator[Delivered]:
        if self._workers is not None:
            yield from self._workers.iterate(epoch, items)
            return
        own = items if self._worker is None else self._worker.own(items, num_before)
        for _, index, mark in own:
            # In no variable: a large one is freed before the next is made.
            yield Delivered(_make(loader, index), mark)


def num_producers(loader: Iterable[Any]) -> int:
    """How many producers a loader is dealt to: as many as it asks for workers."""
    if isinstance(loader, DataLoader) and _is_map_style(loader):
        return max(loader.num_workers, 1)
    return 1


def _is_map_style(loader: DataLoader[Any]) -> bool:
    # A subclass may do anything; but torchdata's only adds a state, which a sampler of indices does
    # not need, and which forgets the order of a shuffled epoch that has not begun.
    is_plain = type(loader).__iter__ is DataLoader.__iter__
    is_torchdata = type(loader).__module__.startswith("torchdata.stateful_dataloader.")
    return (
        (is_plain or is_torchdata)
        and not isinstance(loader.dataset, IterableDataset | MapDataPipe)
        and getattr(loader, "in_order", True)
    )


def _make(loader: DataLoader[Any], index: Any) -> Any:
    return loader.collate_fn(fetch(loader.dataset, index, loader.batch_sampler is not None))


def _mismatches(found: list[str], start: Start, epoch: int) -> Iterator[Notice]:
    if not found:
        return
    text = explain(found, f"epoch {epoch}, microbatch {start.offset}")
    if start.is_strict:
        raise ResumeMismatchError(text)
    yield Notice(text)
