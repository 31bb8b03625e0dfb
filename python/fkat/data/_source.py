"""What the factory returned, as a stream of microbatches that can begin anywhere.

A plain ``DataLoader`` over a map-style dataset is read as a specification (dataset, sampler,
collate_fn): the loop is run here, so that beginning at microbatch k skips indices and reads no
data. Anything else is iterated as it is; that includes a ``DataLoader`` with workers of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, MapDataPipe

from fkat.data._seeding import Seeder


class Source:
    """Microbatches of a loader, by epoch and position.

    Args:
        factory: Returns the loader. Called once, or once an epoch if it returns an iterator.
        seeder: Seeds the global random generators before each microbatch.
    """

    def __init__(self, factory: Callable[[], Iterable[Any]], seeder: Seeder) -> None:
        self._factory = factory
        self._seeder = seeder
        self._loader = self._build()
        self._is_used_up = False

    def __len__(self) -> int:
        """Microbatches in an epoch; TypeError when the loader does not know."""
        try:
            return len(self._loader)  # type: ignore[arg-type]
        except NotImplementedError as error:  # a base class's way to say so
            raise TypeError("the loader has no len()") from error

    def iterate(self, epoch: int, start: int) -> Iterator[Any]:
        """The microbatches of ``epoch`` from position ``start`` on."""
        if self._is_used_up:
            self._loader = self._build()
        loader = self._loader
        self._is_used_up = isinstance(loader, Iterator)  # good for one epoch
        _set_epoch(loader, epoch)
        if isinstance(loader, DataLoader) and _is_map_style(loader):
            return self._iterate_map(loader, epoch, start)
        return self._iterate_any(loader, epoch, start)

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

    def _iterate_map(self, loader: DataLoader[Any], epoch: int, start: int) -> Iterator[Any]:
        """The loop of a single-process DataLoader, drawing the same random numbers in its order."""
        self._seeder.seed_microbatch(epoch, 0)
        batched = loader.batch_sampler is not None
        indices = iter(loader.batch_sampler if batched else loader.sampler)  # type: ignore[arg-type]
        _draw_base_seed(loader)
        for position, index in enumerate(indices):
            if position >= start:
                yield loader.collate_fn(_fetch(loader.dataset, index, batched))
            self._seeder.seed_microbatch(epoch, position + 1)

    def _iterate_any(self, loader: Iterable[Any], epoch: int, start: int) -> Iterator[Any]:
        self._seeder.seed_microbatch(epoch, 0)
        microbatches = iter(loader)
        for position in itertools.count():
            # Not kept in a variable: a large one is freed before the next is made.
            try:
                if position >= start:
                    yield next(microbatches)
                else:
                    next(microbatches)
            except StopIteration:
                return
            self._seeder.seed_microbatch(epoch, position + 1)


def _is_map_style(loader: DataLoader[Any]) -> bool:
    return (
        type(loader).__iter__ is DataLoader.__iter__  # a subclass may do anything
        and loader.num_workers == 0
        and not isinstance(loader.dataset, IterableDataset | MapDataPipe)
    )


def _draw_base_seed(loader: DataLoader[Any]) -> None:
    # DataLoader draws a seed for its workers before the sampler draws the order. Without this a
    # shuffled epoch would come in another order than the DataLoader's.
    torch.empty((), dtype=torch.int64).random_(generator=loader.generator)


def _fetch(dataset: Any, index: Any, batched: bool) -> Any:
    if not batched:
        return dataset[index]
    if hasattr(dataset, "__getitems__") and dataset.__getitems__:
        return dataset.__getitems__(index)
    return [dataset[i] for i in index]


def _set_epoch(loader: Any, epoch: int) -> None:
    """Tell the epoch to whatever orders by it, as Lightning does for a DistributedSampler."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    candidates = (
        loader,
        getattr(loader, "dataset", None),
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    )
    for candidate in {id(c): c for c in candidates}.values():
        set_epoch = getattr(candidate, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
