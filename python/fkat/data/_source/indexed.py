"""A map-style ``DataLoader``, read as a specification: dataset, sampler, collate_fn.

The loop is run here, so that beginning at microbatch k skips indices and reads no data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from fkat.data._parts import set_epoch_of
from fkat.data._seeding import Seeder
from fkat.data._source.fingerprint import Start, mismatches
from fkat.data._source.generators import EpochGenerators
from fkat.data._source.indices import Indices, Item, Part, draw_base_seed, index_sampler
from fkat.data._source.kind import dealing_of
from fkat.data._source.note import Delivered, Produced
from fkat.data._source.worker import IndexWorker
from fkat.data._source.workers import WorkerLoader, fetch


class IndexedLoader:
    """Passes over ``loader``, all of it or what one of its workers makes.

    Args:
        loader: What the factory returned.
        seeder: Seeds for each microbatch.
        part: Which microbatches are this rank's.
        worker: Number of this process among the loader's workers; None to let it have workers of
            its own.
    """

    def __init__(
        self, loader: DataLoader[Any], seeder: Seeder, part: Part, worker: int | None
    ) -> None:
        self._loader = loader
        self._seeder = seeder
        self._part = part
        self._generators = EpochGenerators(loader)
        self._worker: IndexWorker | None = None  # this process
        self._workers: WorkerLoader | None = None  # of its own
        if loader.num_workers > 0 and worker is None:
            self._workers = WorkerLoader(loader, seeder)
        elif loader.num_workers > 0 and worker is not None:
            self._worker = IndexWorker(loader, worker, seeder)

    def iterate(
        self, epoch: int, start: Start, num_before: int, changed: list[str]
    ) -> Iterator[Produced]:
        """As `Source.iterate`; ``changed`` is what differs already."""
        loader = self._loader
        if self._worker is not None:
            self._worker.begin(epoch)
        self._generators.enter(epoch, self._draw_epoch)
        set_epoch_of(loader, epoch)
        ends_alone = bool(start.workers) or not dealing_of(loader, self._part).in_order
        if self._worker is not None and start.workers:
            start = self._worker.start(start)
            num_before = start.offset
        items = Indices(loader, self._seeder, epoch, self._part, start)
        yield from mismatches([*changed, *items.differences], start, epoch)
        if self._workers is not None:
            yield from self._workers.iterate(epoch, items)
        elif self._worker is not None:
            yield from self._made(self._worker.own(items, num_before, ends_alone))
        else:
            yield from self._made(items)
        self._generators.leave(epoch)

    def _made(self, items: Iterator[Item] | Indices) -> Iterator[Delivered]:
        loader = self._loader
        for _, index, mark in items:
            # In no variable: a large one is freed before the next is made.
            yield Delivered(_make(loader, index), mark)

    def _draw_epoch(self, epoch: int) -> None:
        """Draw the indices of a whole epoch, for what that does to the user's generators."""
        set_epoch_of(self._loader, epoch)
        self._seeder.seed_microbatch(epoch, 0)
        drawn = iter(index_sampler(self._loader))
        draw_base_seed(self._loader, epoch)
        for _ in drawn:
            pass


def _make(loader: DataLoader[Any], index: Any) -> Any:
    return loader.collate_fn(fetch(loader.dataset, index, loader.batch_sampler is not None))
