"""The loaders that are compared: how each is made, with the same source and the same depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.cases import Case, PoolDataset, as_it_is, in_process_loader, pool_of

Loader = Iterable[dict[str, torch.Tensor]]


class WarmCopies:
    """The limit: the bytes of each microbatch, copied once into buffers that stay warm."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.buffers = {k: np.empty_like(array) for k, array in pool_of(case)[0].items()}
        self.views = {k: torch.from_numpy(buffer) for k, buffer in self.buffers.items()}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        pool = pool_of(self.case)
        for index in range(self.case.num_items):
            for key, array in pool[index % len(pool)].items():
                np.copyto(self.buffers[key], array)
            yield self.views


class PlainLoop:
    """The floor: no hand-off and no DataLoader, just the dataset's items in order."""

    def __init__(self, case: Case) -> None:
        self.dataset = PoolDataset(case)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return (self.dataset[index] for index in range(len(self.dataset)))


def _worker_options(num_prefetches: int) -> dict[str, Any]:
    return {
        "batch_size": None,
        "collate_fn": as_it_is,
        "num_workers": 1,
        "prefetch_factor": num_prefetches,
        "persistent_workers": True,
    }


def _dataloader(case: Case, num_prefetches: int) -> Loader:
    return DataLoader(PoolDataset(case), **_worker_options(num_prefetches))


def _stateful(case: Case, num_prefetches: int) -> Loader:
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader: Loader = StatefulDataLoader(PoolDataset(case), **_worker_options(num_prefetches))
    return loader


def _fkat(case: Case, num_prefetches: int) -> Loader:
    from fkat.data import ShmDataLoader

    factory = partial(in_process_loader, case)
    loader: Loader = ShmDataLoader(0, factory, num_microbatch_prefetches=num_prefetches)
    return loader


SUBJECTS: dict[str, Callable[[Case, int], Loader]] = {
    "memcpy": lambda case, _: WarmCopies(case),
    "in-process": lambda case, _: PlainLoop(case),
    "in-process-dataloader": lambda case, _: in_process_loader(case),
    "dataloader": _dataloader,
    "stateful": _stateful,
    "fkat": _fkat,
    "fkat-default": lambda case, _: _fkat(case, -1),
}
"""Name -> how to make the loader, given the case and the number of microbatches prefetched."""

SLOW = {"dataloader", "stateful"}

TITLES = {
    "memcpy": "one memcpy, warm to warm",
    "in-process": "in process, plain loop",
    "in-process-dataloader": "in process, DataLoader",
    "dataloader": "torch DataLoader",
    "stateful": "torchdata StatefulDataLoader",
    "fkat": "fkat ShmDataLoader",
    "fkat-default": "fkat, default depth (-1)",
}


def close(loader: Any) -> None:
    """End the loader's processes now, so that nothing outlives the measurement."""
    if hasattr(loader, "teardown"):
        loader.teardown()
    stop_workers = getattr(getattr(loader, "_iterator", None), "_shutdown_workers", None)
    if stop_workers is not None:
        stop_workers()
