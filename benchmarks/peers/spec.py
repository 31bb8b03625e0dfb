"""What a loader is to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from benchmarks.harness.stream import NUM_PREFETCHES


@dataclass(frozen=True)
class Spec:
    """The same work for every loader.

    Attributes:
        dataset: Map-style; item ``i`` for ``i`` in 0, 1, ..., in this order.
        batch_size: Items of a microbatch; None if an item is one.
        collate_fn: Of torch's convention; None for each library's own.
        num_workers: Processes (or threads of a process, where the library is made so).
        num_prefetches: Microbatches that each worker is ahead.
        max_nbytes: Of a microbatch, for those that reserve memory for it.
        start_method: Of processes; None for the library's own.
    """

    dataset: Dataset[Any]
    batch_size: int | None = None
    collate_fn: Callable[[Any], Any] | None = None
    num_workers: int = 1
    num_prefetches: int = NUM_PREFETCHES
    max_nbytes: int = 1 << 30
    start_method: str | None = None

    @property
    def num_ahead(self) -> int:
        """Microbatches that all workers together are ahead."""
        return self.num_workers * self.num_prefetches

    def in_process(self) -> DataLoader[Any]:
        """A DataLoader that makes the microbatches where it is iterated."""
        return DataLoader(self.dataset, self.batch_size, collate_fn=self.collate_fn)

    def worker_options(self) -> dict[str, Any]:
        """Arguments of a DataLoader, or of one of its kind, that has workers."""
        return {
            "batch_size": self.batch_size,
            "collate_fn": self.collate_fn,
            "num_workers": self.num_workers,
            "prefetch_factor": self.num_prefetches,
            "persistent_workers": True,
            "multiprocessing_context": self.start_method,
        }
