"""A producer as one of the workers of a ``DataLoader`` over an iterable dataset.

Each has a copy of the dataset and makes microbatches of what that yields, as `DataLoader`'s workers
do. Where it stands is its own count, and the state of its copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from fkat.data._parts import set_epoch_of
from fkat.data._seeding import Seeder
from fkat.data._source.fingerprint import Start, Trail
from fkat.data._source.indices import WHOLE
from fkat.data._source.iterables import IterablePass
from fkat.data._source.note import Delivered, Notice
from fkat.data._source.worker import become_worker
from fkat.data._source.worker_places import dealt


class StreamWorker:
    """This process as worker ``number`` of ``loader``.

    Without ``persistent_workers`` each epoch begins with a new copy of the dataset, since PyTorch
    would begin it with new workers: what ``worker_init_fn`` and ``__iter__`` change is forgotten.
    A dataset that cannot be copied stays, as with ``persistent_workers``.
    """

    def __init__(self, loader: DataLoader[Any], number: int, seeder: Seeder) -> None:
        self._loader = loader
        self._number = number
        self._seeder = seeder
        self._is_persistent = loader.persistent_workers
        self._own: DataLoader[Any] | None = None

    def iterate(self, epoch: int, start: Start) -> Iterator[Delivered | Notice]:
        """This worker's microbatches from its place in ``start`` on."""
        num_workers = self._loader.num_workers
        places = start.workers or dealt(start.offset, num_workers)
        place = places[self._number]
        if place.has_ended:
            return
        own = self._begin(epoch)
        seeder = self._seeder.of_worker(self._number, num_workers)
        its_start = replace(start, trail=Trail((), place.num_delivered), inner=place.inner)
        name = f"each worker of a {type(self._loader).__qualname__}"
        speaker = next(number for number, each in enumerate(places) if not each.has_ended)
        for produced in IterablePass(own, seeder, epoch, WHOLE, its_start, None, name):
            if type(produced) is Delivered or self._number == speaker:  # it warns for all
                yield produced
            del produced  # a large microbatch is freed before the next is made

    def _begin(self, epoch: int) -> DataLoader[Any]:
        if self._own is not None and self._is_persistent:
            set_epoch_of(self._own, epoch)
            return self._own
        own = self._without_workers(self._copy_of_dataset())
        set_epoch_of(own, epoch)
        become_worker(self._loader, self._number, self._seeder, epoch, own.dataset)
        self._own = own  # not before: an error in worker_init_fn is no beginning
        return own

    def _copy_of_dataset(self) -> Any:
        if not self._is_persistent:
            try:
                return deepcopy(self._loader.dataset)
            except Exception:  # an open file, a lock
                self._is_persistent = True
        return self._loader.dataset

    def _without_workers(self, dataset: Any) -> DataLoader[Any]:
        """The loader as one worker runs it: by itself, over its own copy."""
        # Not by setattr, which refuses to change these.
        own: DataLoader[Any] = object.__new__(DataLoader)
        own.__dict__.update(
            self._loader.__dict__
            # It draws a seed for workers that it does not have: not from the user's generator.
            | {"dataset": dataset, "num_workers": 0, "timeout": 0, "generator": torch.Generator()}
        )
        return own
