"""The ways to the GPU that are compared, all fed by the same source through as many workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.device.cases import Numbered, PoolOnDevice, in_process, open_shard, shards_of
from benchmarks.peers.dataloader import stop_workers
from benchmarks.sources.ready import POOL_SIZE, Case, as_it_is
from fkat.data import ShmDataLoader
from fkat.data.sharded import ShardedDataLoader

Microbatch = dict[str, torch.Tensor]
Loader = Iterable[Microbatch]

NUM_PREFETCHES = 4
"""Microbatches that each worker is ahead, for every loader."""


def fkat(case: Case, count: int, num_workers: int, device: torch.device | None) -> Loader:
    """This package: one producer, or as many as there are workers, each with a shard in turn."""
    loader: Loader
    if num_workers == 1:
        factory = partial(in_process, case, 0, count)
        loader = ShmDataLoader(0, factory, NUM_PREFETCHES, device=device)
    else:
        loader = ShardedDataLoader(
            0,
            shards_of(count),
            partial(open_shard, case),
            num_shard_prefetches=num_workers,
            num_microbatch_prefetches=NUM_PREFETCHES,
            device=device,
        )
    return loader


def _workers(case: Case, count: int, num_workers: int, pin_memory: bool) -> DataLoader[Microbatch]:
    return DataLoader(
        Numbered(case, 0, count),
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=num_workers,
        prefetch_factor=NUM_PREFETCHES,
        persistent_workers=True,
        pin_memory=pin_memory,
    )


class PinnedDataLoader:
    """The usual way: a thread pins, the loop moves, on the stream that computes."""

    def __init__(self, case: Case, count: int, num_workers: int, device: torch.device) -> None:
        self.inner = _workers(case, count, num_workers, pin_memory=True)
        self.device = device

    def __iter__(self) -> Iterator[Microbatch]:
        for microbatch in self.inner:
            yield self.move(microbatch)

    def move(self, microbatch: Microbatch) -> Microbatch:
        """Queue the copies on the current stream."""
        return {key: each.to(self.device, non_blocking=True) for key, each in microbatch.items()}


class OneAhead(PinnedDataLoader):
    """timm's way: on a side stream, the next microbatch is copied before this one is handed out.

    With ``record_stream``, without which the side stream may overwrite what is still computed on.
    """

    def __iter__(self) -> Iterator[Microbatch]:
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        waiting: Microbatch | None = None
        for microbatch in self.inner:
            with torch.cuda.stream(side):
                following = self.move(microbatch)
            if waiting is not None:
                yield waiting
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(side)
            for tensor in following.values():
                tensor.record_stream(current)
            waiting = following
        if waiting is not None:
            yield waiting


class Spdl:
    """SPDL's way: a thread of its pipeline pins and copies on a stream of its own."""

    def __init__(self, case: Case, count: int, num_workers: int, device: torch.device) -> None:
        del device  # SPDL takes the current one
        self.inner = _workers(case, count, num_workers, pin_memory=False)

    def __iter__(self) -> Iterator[Microbatch]:
        from spdl.io import transfer_tensor
        from spdl.pipeline import PipelineBuilder

        with ThreadPoolExecutor(max_workers=1) as one_thread:
            builder = PipelineBuilder().add_source(self.inner)
            builder = builder.pipe(transfer_tensor, executor=one_thread).add_sink(2)
            pipeline = builder.build(num_threads=1)
            with pipeline.auto_stop():
                yield from pipeline


class Resident:
    """No loader: the microbatches lie on the device already. What a step takes at best."""

    def __init__(self, case: Case, count: int, num_workers: int, device: torch.device) -> None:
        del num_workers
        entries = PoolOnDevice(case, device).entries
        numbers = torch.arange(count, device=device)
        self.microbatches = [
            {**entries[number % POOL_SIZE], "number": numbers[number]} for number in range(count)
        ]

    def __iter__(self) -> Iterator[Microbatch]:
        return iter(self.microbatches)


SUBJECTS: dict[str, Callable[[Case, int, int, torch.device], Loader]] = {
    "resident": Resident,
    "fkat": fkat,
    "dataloader": PinnedDataLoader,
    "one-ahead": OneAhead,
    "spdl": Spdl,
}
"""Name -> how to make the loader, of a case, a number of microbatches, workers, and the device."""

TITLES = {
    "resident": "compute alone, data on the GPU",
    "fkat": "fkat, device=cuda",
    "dataloader": "DataLoader(pin_memory=True), .to()",
    "one-ahead": "the same, one ahead on a side stream",
    "spdl": "SPDL transfer_tensor",
}


def missing_package(subject: str) -> str | None:
    """The package that a subject needs and that is not installed."""
    return "spdl" if subject == "spdl" and find_spec("spdl") is None else None


def inner_of(loader: Any) -> Any:
    """The loader that has processes to close."""
    return getattr(loader, "inner", loader)


def close(loader: Any) -> None:
    """End the loader's processes now, so that nothing outlives the measurement."""
    if hasattr(loader, "teardown"):
        loader.teardown()
    stop_workers(loader)
