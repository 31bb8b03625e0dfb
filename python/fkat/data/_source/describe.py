"""What a loader is made of, in names and numbers that a change of the data would change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from fkat.data._source.fingerprint import Description
from fkat.data._source.indices import known_length


def describe(loader: Any) -> Description:
    """Pairs of a name and a plain value. Reads no data."""
    return tuple(_facts(loader))


def _facts(loader: Any) -> Iterator[tuple[str, Any]]:
    yield "loader", type(loader).__qualname__
    if not isinstance(loader, DataLoader):
        yield "len(loader)", known_length(loader)
        return
    yield "dataset", type(loader.dataset).__qualname__
    yield "len(dataset)", known_length(loader.dataset)
    if isinstance(loader.dataset, IterableDataset):
        yield "num_workers", loader.num_workers  # it decides what is in which microbatch
    batch_sampler = loader.batch_sampler
    if batch_sampler is None:
        yield from _sampler_facts(loader.sampler)
    elif isinstance(batch_sampler, BatchSampler):
        yield from _sampler_facts(batch_sampler.sampler)
        yield "batch_size", batch_sampler.batch_size
        yield "drop_last", batch_sampler.drop_last
    else:
        yield "batch_sampler", type(batch_sampler).__qualname__
        yield "len(batch_sampler)", known_length(batch_sampler)


def _sampler_facts(sampler: Any) -> Iterator[tuple[str, Any]]:
    yield "sampler", type(sampler).__qualname__
    for name in ("num_replicas", "replacement", "seed"):  # of a DistributedSampler, a RandomSampler
        value = getattr(sampler, name, None)
        if isinstance(value, int):
            yield f"sampler.{name}", value
