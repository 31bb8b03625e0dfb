"""SPDL's shortest way from one process to another: an iterable in a subprocess, and its pool."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.harness.question import CannotDoError
from benchmarks.peers.spec import Spec

_NUM_SEGMENTS = 8
"""The buffer, and what the trainer holds: with fewer, the producer waits for a segment."""

_SEGMENT_OVERHEAD_NBYTES = 1 << 20


def _make_source(spec: Spec) -> DataLoader[Any]:
    return DataLoader(spec.dataset, spec.batch_size, collate_fn=spec.collate_fn)


@contextmanager
def open_loader(spec: Spec) -> Iterator[Iterable[Any]]:
    """One process that iterates; tensors travel through segments that are used again and again."""
    from spdl.pipeline import SharedMemorySegmentPool, iterate_in_subprocess

    if spec.num_workers != 1:
        raise CannotDoError("iterate_in_subprocess has one process")
    start_method = spec.start_method or "fork"
    # Its pool makes a lock of the default context, whatever the process is started by.
    multiprocessing.set_start_method(start_method, force=True)
    segment_nbytes = spec.max_nbytes + _SEGMENT_OVERHEAD_NBYTES
    loader: Any = iterate_in_subprocess(
        partial(_make_source, spec),
        buffer_size=spec.num_prefetches,
        mp_context=start_method,
        arena=SharedMemorySegmentPool(segment_nbytes, _NUM_SEGMENTS),
    )
    try:
        yield loader
    finally:
        loader._shutdown()  # otherwise its process goes on until it is collected
