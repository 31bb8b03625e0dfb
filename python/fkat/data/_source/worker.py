"""A producer as one of the workers that a map-style ``DataLoader`` asks for with ``num_workers``.

Every one of them draws all indices and makes each so many-th microbatch, as `DataLoader` deals them
to its workers. There is no queue between them and the trainer but the ring of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils import worker as torch_worker

from fkat.data._seeding import Seeder
from fkat.data._source.indices import Item


class Worker:
    """This process as worker ``number`` of ``loader``: ``get_worker_info()`` says so from now on.

    It stays for all epochs, with what user code has changed in the dataset, as with
    ``persistent_workers``; without that, ``worker_init_fn`` is called anew in each epoch.
    """

    def __init__(self, loader: DataLoader[Any], number: int, seeder: Seeder) -> None:
        self._loader = loader
        self._number = number
        self._seeder = seeder
        self._has_begun = False

    @property
    def num_workers(self) -> int:
        """How many there are."""
        return self._loader.num_workers

    def begin(self, epoch: int) -> None:
        """Do what a worker does first."""
        if self._has_begun and self._loader.persistent_workers:
            return
        loader = self._loader
        seed = self._seeder.seed_worker(epoch, self._number)
        torch_worker._worker_info = torch_worker.WorkerInfo(
            id=self._number, num_workers=loader.num_workers, seed=seed, dataset=loader.dataset
        )
        if loader.worker_init_fn is not None:
            loader.worker_init_fn(self._number)
        self._has_begun = True  # not before: an error in it is no beginning

    def own(self, items: Iterable[Item], num_before: int) -> Iterator[Item]:
        """Those of ``items`` that this worker makes; so many came before them in the epoch."""
        return islice(items, (self._number - num_before) % self.num_workers, None, self.num_workers)
