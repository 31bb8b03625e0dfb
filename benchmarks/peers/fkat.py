"""This package: the same DataLoader, read as what its producers are to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.peers.spec import Spec


def make_source(spec: Spec) -> DataLoader[Any]:
    """The DataLoader whose work the producers do; runs in each of them."""
    return DataLoader(
        spec.dataset, spec.batch_size, collate_fn=spec.collate_fn, num_workers=spec.num_workers
    )


@contextmanager
def open_loader(spec: Spec) -> Iterator[Iterable[Any]]:
    """Producers as many as the spec has workers."""
    from fkat.data import ShmDataLoader

    loader: ShmDataLoader[Any] = ShmDataLoader(
        0,
        partial(make_source, spec),
        spec.num_ahead,
        multiprocessing_context=spec.start_method,
    )
    try:
        yield loader
    finally:
        loader.teardown()
