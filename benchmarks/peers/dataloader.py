"""torch's DataLoader and torchdata's StatefulDataLoader, with persistent workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.peers.spec import Spec


@contextmanager
def open_loader(spec: Spec) -> Iterator[Iterable[Any]]:
    """Torch's own."""
    loader = DataLoader(spec.dataset, **spec.worker_options())
    try:
        yield loader
    finally:
        stop_workers(loader)


@contextmanager
def open_stateful(spec: Spec) -> Iterator[Iterable[Any]]:
    """Torchdata's drop-in for it, with its default of a state at every microbatch."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader: Any = StatefulDataLoader(spec.dataset, **spec.worker_options())
    try:
        yield loader
    finally:
        stop_workers(loader)


def stop_workers(loader: Any) -> None:
    """End the workers now, so that nothing outlives the measurement."""
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        iterator._shutdown_workers()
