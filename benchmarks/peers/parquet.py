"""Documents in Parquet shards: read by hand for the loaders that read none, by ours as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.peers.dataloader import stop_workers
from benchmarks.sources.text import ROWS_PER_MICROBATCH, Document, Row, packed_rows
from fkat.data.datasets import IterableParquetDataset
from fkat.data.sharded import DataLoaderFactory, FsShardSampler, ShardedDataLoader

COLUMNS = ("number", "text")


def write(folder: Path, shards: Sequence[Sequence[Document]]) -> None:
    """A file for each shard, as pyarrow writes it by default."""
    for place, shard in enumerate(shards):
        numbers, texts = zip(*shard, strict=True)
        table = pa.table({"number": numbers, "text": texts})
        pq.write_table(table, folder / f"{place:04}.parquet")


class PackedFiles(IterableDataset[Row]):
    """The rows of some files, packed; of n workers, each reads every n-th file."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def _documents(self) -> Iterator[Document]:
        worker = get_worker_info()
        mine = self.paths if worker is None else self.paths[worker.id :: worker.num_workers]
        for path in mine:
            with pq.ParquetFile(path) as file:
                for rows in file.iter_batches(columns=list(COLUMNS)):
                    yield from zip(*(rows[key].to_pylist() for key in COLUMNS), strict=True)

    def __iter__(self) -> Iterator[Row]:
        return packed_rows(self._documents())


def _options(num_workers: int, num_prefetches: int) -> dict[str, Any]:
    return {
        "batch_size": ROWS_PER_MICROBATCH,
        "drop_last": True,
        "num_workers": num_workers,
        "prefetch_factor": num_prefetches,
        "persistent_workers": True,
    }


@contextmanager
def open_dataloader(folder: Path, num_workers: int, num_prefetches: int) -> Iterator[Iterable[Any]]:
    """Of torch: a DataLoader over the files."""
    loader = DataLoader(
        PackedFiles(sorted(folder.iterdir())), **_options(num_workers, num_prefetches)
    )
    try:
        yield loader
    finally:
        stop_workers(loader)


@contextmanager
def open_stateful(folder: Path, num_workers: int, num_prefetches: int) -> Iterator[Iterable[Any]]:
    """Of torchdata: a StatefulDataLoader over the files."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    files = PackedFiles(sorted(folder.iterdir()))
    loader: Any = StatefulDataLoader(files, **_options(num_workers, num_prefetches))
    try:
        yield loader
    finally:
        stop_workers(loader)


class PackedShard(IterableDataset[Row]):
    """The rows of one shard, read by our dataset, and packed."""

    def __init__(self, path: str | list[str]) -> None:
        self.rows = IterableParquetDataset(path, columns=COLUMNS)

    def __iter__(self) -> Iterator[Row]:
        return packed_rows((row["number"], row["text"]) for row in self.rows)


@contextmanager
def open_fkat(folder: Path, num_workers: int, num_prefetches: int) -> Iterator[Iterable[Any]]:
    """`ShardedDataLoader`: a producer for each shard that is being read."""
    loader: ShardedDataLoader[Any] = ShardedDataLoader(
        0,
        FsShardSampler(folder, glob="*.parquet"),
        DataLoaderFactory(
            dataset_generator=PackedShard,
            dataloader_generator=partial(
                DataLoader, batch_size=ROWS_PER_MICROBATCH, drop_last=True
            ),
        ),
        num_shard_prefetches=num_workers,
    )
    try:
        yield loader
    finally:
        loader.teardown()
