"""SPDL's pipeline in a subprocess, whose microbatches come through a pool of shared memory.

A task of the pipeline fetches the items of a microbatch and collates them; it has as many threads
for it as other loaders have processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.data import default_collate

from benchmarks.harness.question import CannotDoError
from benchmarks.peers.spec import Spec

_NUM_SEGMENTS = 8
_SEGMENT_OVERHEAD_NBYTES = 1 << 20


def _microbatch(spec: Spec, indices: range) -> Any:
    collate = spec.collate_fn or default_collate
    return collate([spec.dataset[index] for index in indices])


@contextmanager
def open_loader(spec: Spec) -> Iterator[Iterable[Any]]:
    """One process with ``spec.num_workers`` threads, microbatches in order."""
    from spdl.pipeline import (
        PipelineBuilder,
        SharedMemorySegmentPool,
        run_pipeline_in_subprocess,
    )

    if spec.batch_size is None:
        raise CannotDoError("ready microbatches need no pipeline: see iterate_in_subprocess")
    num_items = len(spec.dataset)  # type: ignore[arg-type]
    first = range(0, num_items, spec.batch_size)
    pipeline = (
        PipelineBuilder()
        .add_source([range(i, min(i + spec.batch_size, num_items)) for i in first])
        .pipe(partial(_microbatch, spec), concurrency=spec.num_workers, output_order="input")
        .add_sink(buffer_size=spec.num_prefetches)
    )
    segment_nbytes = spec.max_nbytes + _SEGMENT_OVERHEAD_NBYTES
    loader: Any = run_pipeline_in_subprocess(
        pipeline.get_config(),
        num_threads=spec.num_workers,
        buffer_size=spec.num_prefetches,
        mp_context=spec.start_method or "fork",
        arena=SharedMemorySegmentPool(segment_nbytes, _NUM_SEGMENTS),
    )
    yield loader
