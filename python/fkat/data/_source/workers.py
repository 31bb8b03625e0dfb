"""A map-style ``DataLoader`` with workers of its own, given other indices and other seeds.

Every item carries the place of its microbatch to the worker, which seeds its generators by it: so
what a random augmentation does is the same for any number of workers, none included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, get_worker_info

from fkat.data._seeding import Seeder
from fkat.data._source.indices import Item
from fkat.data._source.note import Delivered, Mark


class WorkerLoader:
    """Runs the items of one epoch after another through the workers of ``loader``."""

    def __init__(self, loader: DataLoader[Any], seeder: Seeder) -> None:
        self._stream = _Stream()
        # A plain one, whatever it was; and not by setattr, which refuses to change these.
        self._loader: DataLoader[Any] = object.__new__(DataLoader)
        self._loader.__dict__.update(
            loader.__dict__
            | {
                "dataset": _SeededDataset(loader.dataset, seeder),
                "worker_init_fn": _WorkerInit(loader.worker_init_fn),
                "sampler" if loader.batch_sampler is None else "batch_sampler": self._stream,
                # It draws a seed for its workers; ours was drawn with the indices.
                "generator": torch.Generator(),
                "in_order": True,  # marks come in order
            }
        )

    def iterate(self, epoch: int, items: Iterable[Item]) -> Iterator[Delivered]:
        """Their microbatches, in order."""
        marks = self._stream.begin(epoch, items)
        for microbatch in self._loader:
            made = [Delivered(microbatch, marks.popleft())]
            del microbatch  # a large one is freed before the next is asked for
            yield made.pop()


class _Stream:
    """The sampler of the copied loader. One object for good: persistent workers remember it."""

    def begin(self, epoch: int, items: Iterable[Item]) -> deque[Mark]:
        """Stream these items; their marks appear in what is returned."""
        self._marks: deque[Mark] = deque()
        self._epoch = epoch
        self._items = items
        return self._marks

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        epoch, marks = self._epoch, self._marks
        for position, index, mark in self._items:
            marks.append(mark)
            yield epoch, position, index


class _SeededDataset:
    """The user's dataset in a worker, indexed by (epoch, position, index)."""

    def __init__(self, dataset: Any, seeder: Seeder) -> None:
        self.dataset = dataset
        self._seeder = seeder

    def __getitem__(self, item: tuple[int, int, Any]) -> Any:
        return self._seeded(*item, batched=False)

    def __getitems__(self, item: tuple[int, int, Any]) -> Any:
        return self._seeded(*item, batched=True)

    def _seeded(self, epoch: int, position: int, index: Any, batched: bool) -> Any:
        self._seeder.seed_microbatch(epoch, position)
        return fetch(self.dataset, index, batched)


class _WorkerInit:
    """The user's ``worker_init_fn``, in a worker that sees its own dataset, not our wrapper."""

    def __init__(self, function: Callable[[int], None] | None) -> None:
        self._function = function

    def __call__(self, worker_id: int) -> None:
        info = get_worker_info()
        assert info is not None
        # Not by setattr, which a WorkerInfo refuses.
        object.__setattr__(info, "dataset", info.dataset.dataset)  # type: ignore[attr-defined]
        if self._function is not None:
            self._function(worker_id)


def fetch(dataset: Any, index: Any, batched: bool) -> Any:
    """The sample, or the samples, of what a sampler drew; as ``DataLoader`` does it."""
    if not batched:
        return dataset[index]
    if hasattr(dataset, "__getitems__") and dataset.__getitems__:
        return dataset.__getitems__(index)
    return [dataset[i] for i in index]
