"""Google's Grain: `mp_prefetch`, whose processes it starts by spawn; it carries numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Dataset

from benchmarks.harness.question import CannotDoError
from benchmarks.peers.spec import Spec


class _AsArrays:
    """The dataset's items with numpy arrays: torch tensors would take torch's slower way."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        item = self._dataset[index]
        if isinstance(item, dict):
            return {key: _as_array(value) for key, value in item.items()}
        return _as_array(item)


def _as_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, torch.Tensor) else value


class _Reiterable:
    """Closes its iterator with itself: Grain asks for that, to end the processes."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._iterators: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self._dataset)
        self._iterators.append(iterator)
        return iterator  # type: ignore[no-any-return]

    def close(self) -> None:
        for iterator in self._iterators:
            iterator.close()


def num_threads(spec: Spec) -> int:
    """Threads of each worker: as many as are ahead; 1 where microbatches are ready."""
    return 1 if spec.batch_size is None else spec.num_prefetches


@contextmanager
def open_loader(spec: Spec) -> Iterator[Iterable[Any]]:
    """Reads ready microbatches without threads, which is faster; the items of a batch with them."""
    import grain

    if spec.start_method not in (None, "spawn"):
        raise CannotDoError("it always spawns")
    dataset = grain.MapDataset.source(_AsArrays(spec.dataset))
    reads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    if spec.batch_size is not None:
        dataset = dataset.batch(spec.batch_size)
        reads = grain.ReadOptions(num_threads(spec), spec.num_prefetches)
    options = grain.MultiprocessingOptions(
        spec.num_workers, per_worker_buffer_size=spec.num_prefetches
    )
    loader = _Reiterable(dataset.to_iter_dataset(reads).mp_prefetch(options))
    try:
        yield loader
    finally:
        loader.close()
