"""Which loaders can be read as a specification, and how they are divided among producers."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch.utils.data import DataLoader, IterableDataset, IterDataPipe, MapDataPipe

from fkat.data._source.indices import Part
from fkat.data._source.note import ONE_PRODUCER, Dealing


def dealing_of(loader: Any, part: Part) -> Dealing:
    """What the producers of ``loader`` make, as many as it asks for workers."""
    if not isinstance(loader, DataLoader) or loader.num_workers == 0:
        return ONE_PRODUCER
    in_order = getattr(loader, "in_order", True)  # since torch 2.7
    if is_map_style(loader):
        # Out of order, what is delivered is no prefix, which another number of ranks could resume.
        return Dealing(loader.num_workers, in_order=in_order or part.size > 1)
    # Of a part each rank reads the whole, microbatch by microbatch, which one process can do.
    if _is_stream(loader) and part.size == 1:
        return Dealing(loader.num_workers, is_by_number=False, in_order=in_order)
    return ONE_PRODUCER


def is_map_style(loader: Any) -> TypeGuard[DataLoader[Any]]:
    """Whether it is a ``DataLoader`` that does nothing but fetch what its sampler draws."""
    # A subclass may do anything; but torchdata's only adds a state, which a sampler of indices does
    # not need, and which forgets the order of a shuffled epoch that has not begun.
    is_torchdata = type(loader).__module__.startswith("torchdata.stateful_dataloader.")
    return (
        isinstance(loader, DataLoader)
        and (_is_plain(loader) or is_torchdata)
        and not isinstance(loader.dataset, IterableDataset | MapDataPipe)
    )


def _is_stream(loader: DataLoader[Any]) -> bool:
    """Whether each worker does nothing but iterate its copy of the dataset."""
    # Torchdata's keeps states of its workers, and datapipes are told things by theirs.
    return (
        _is_plain(loader)
        and isinstance(loader.dataset, IterableDataset)
        and not isinstance(loader.dataset, IterDataPipe)
    )


def _is_plain(loader: DataLoader[Any]) -> bool:
    return type(loader).__iter__ is DataLoader.__iter__
