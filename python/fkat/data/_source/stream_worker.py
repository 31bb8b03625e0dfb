"""A producer as one of the workers of a ``DataLoader`` over an iterable dataset.

Each has the dataset for itself, being a process, and makes microbatches of what that yields, as
`DataLoader`'s workers do. Where it stands is its own count, and the state of its dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

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

    Without ``persistent_workers`` each epoch begins with the attributes that the dataset had at
    first, since PyTorch would begin it with new workers: what ``worker_init_fn`` and ``__iter__``
    have set is forgotten. The dataset itself stays the same, as other parts of the loader may
    refer to it, and a copy would take its memory again.
    """

    def __init__(self, loader: DataLoader[Any], number: int, seeder: Seeder) -> None:
        self._loader = loader
        self._number = number
        self._seeder = seeder
        self._own = self._without_workers()
        self._at_first = _attributes(loader.dataset)
        self._has_begun = False

    def iterate(self, epoch: int, start: Start) -> Iterator[Delivered | Notice]:
        """This worker's microbatches from its place in ``start`` on."""
        num_workers = self._loader.num_workers
        places = start.workers or dealt(start.offset, num_workers)
        place = places[self._number]
        if place.has_ended:
            return
        self._begin(epoch)
        seeder = self._seeder.of_worker(self._number, num_workers)
        its_start = replace(start, trail=Trail((), place.num_delivered), inner=place.inner)
        name = f"each worker of a {type(self._loader).__qualname__}"
        speaker = next(number for number, each in enumerate(places) if not each.has_ended)
        for produced in IterablePass(self._own, seeder, epoch, WHOLE, its_start, None, name):
            if type(produced) is Delivered or self._number == speaker:  # it warns for all
                yield produced
            del produced  # a large microbatch is freed before the next is made

    def _begin(self, epoch: int) -> None:
        loader = self._loader
        is_new = not (self._has_begun and loader.persistent_workers)
        if is_new:
            for owner, attributes in self._at_first:
                vars(owner).clear()
                vars(owner).update(attributes)
        set_epoch_of(self._own, epoch)
        if is_new:
            become_worker(loader, self._number, self._seeder, epoch, loader.dataset)
            self._has_begun = True  # not before: an error in worker_init_fn is no beginning

    def _without_workers(self) -> DataLoader[Any]:
        """The loader as one worker runs it: by itself."""
        # Not by setattr, which refuses to change these.
        own: DataLoader[Any] = object.__new__(DataLoader)
        own.__dict__.update(
            self._loader.__dict__
            # It draws a seed for workers that it does not have: not from the user's generator.
            | {"num_workers": 0, "timeout": 0, "generator": torch.Generator()}
        )
        return own


def _attributes(dataset: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Those of a dataset and of the datasets that it reads, with their owners."""
    found: list[tuple[Any, dict[str, Any]]] = []
    left = [dataset]
    while left:
        owner = left.pop()
        if hasattr(owner, "__dict__") and all(owner is not other for other, _ in found):
            attributes = dict(vars(owner))
            found.append((owner, attributes))
            left += [value for value in attributes.values() if isinstance(value, Dataset)]
    return found
