"""A producer as one of the workers that a ``DataLoader`` asks for with ``num_workers``.

There is no queue between it and the trainer but a ring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils import worker as torch_worker

from fkat.data._seeding import Seeder
from fkat.data._source.fingerprint import NO_TRAIL, Start, Trail
from fkat.data._source.indices import Indices, Item
from fkat.data._source.note import Ends


def become_worker(
    loader: DataLoader[Any], number: int, seeder: Seeder, epoch: int, dataset: Any
) -> None:
    """Do what a worker does first: from now on ``get_worker_info()`` says that this is one.

    Args:
        loader: Whose worker.
        number: Which one.
        seeder: Seeds for ``worker_init_fn``.
        epoch: Of the microbatches to come.
        dataset: Its own.
    """
    seed = seeder.seed_worker(epoch, number)
    torch_worker._worker_info = torch_worker.WorkerInfo(
        id=number, num_workers=loader.num_workers, seed=seed, dataset=dataset
    )
    if loader.worker_init_fn is not None:
        loader.worker_init_fn(number)


class IndexWorker:
    """This process as worker ``number`` of a map-style loader: draws all indices, makes its share.

    It stays for all epochs, with what user code has changed in the dataset, as with
    ``persistent_workers``; without that, ``worker_init_fn`` is called anew in each epoch.
    """

    def __init__(self, loader: DataLoader[Any], number: int, seeder: Seeder) -> None:
        self._loader = loader
        self._number = number
        self._seeder = seeder
        self._has_begun = False

    def begin(self, epoch: int) -> None:
        """Do what a worker does first."""
        loader = self._loader
        if not (self._has_begun and loader.persistent_workers):
            become_worker(loader, self._number, self._seeder, epoch, loader.dataset)
            self._has_begun = True  # not before: an error in worker_init_fn is no beginning

    def start(self, start: Start) -> Start:
        """Where it begins, if the workers were not in turn: behind the last one that it made."""
        if not start.workers:
            return start
        count, _, digest, _ = start.workers[self._number]
        offset = self._number + (count - 1) * self._loader.num_workers + 1
        return replace(start, trail=Trail((), offset, digest) if count else NO_TRAIL)

    def own(self, items: Indices, num_before: int, ends_alone: bool) -> Iterator[Item]:
        """Those of ``items`` that this worker makes.

        Args:
            items: Of all workers.
            num_before: How many come before them in the epoch.
            ends_alone: Whether marks say when this worker, not the epoch, comes to its end.
        """
        step = self._loader.num_workers
        for position, index, mark in islice(items, (self._number - num_before) % step, None, step):
            if ends_alone:
                is_last = items.total is not None and position + step >= items.total
                mark = mark._replace(ends=Ends.EPOCH if is_last else Ends.NOTHING)
            yield position, index, mark
