"""MosaicML Streaming: documents in its MDS shards, read by its streaming loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import benchmarks.peers.without_torchvision  # noqa: F401

# isort: split
import streaming
from streaming.base.util import clean_stale_shared_memory

from benchmarks.peers.dataloader import stop_workers
from benchmarks.sources.text import ROWS_PER_MICROBATCH, SHARD_NBYTES, Document, Row, packed_rows

_COLUMNS = {"number": "int", "text": "str"}


def write(folder: Path, shards: Sequence[Sequence[Document]]) -> None:
    """MDS shards of about the size of the others'."""
    with streaming.MDSWriter(out=str(folder), columns=_COLUMNS, size_limit=SHARD_NBYTES) as writer:
        for shard in shards:
            for number, text in shard:
                writer.write({"number": number, "text": text})


class PackedText(streaming.StreamingDataset):  # type: ignore[misc]
    """Packs the documents that a worker reads."""

    def __iter__(self) -> Iterator[Row]:
        samples = super().__iter__()
        return packed_rows((sample["number"], sample["text"]) for sample in samples)


@contextmanager
def open_loader(folder: Path, num_workers: int, num_prefetches: int) -> Iterator[Iterable[Any]]:
    """Its ``StreamingDataLoader`` over local shards, without shuffling."""
    clean_stale_shared_memory()  # the names are fixed: what a killed run left would stop this one
    loader = streaming.StreamingDataLoader(
        PackedText(local=str(folder), batch_size=ROWS_PER_MICROBATCH, shuffle=False),
        batch_size=ROWS_PER_MICROBATCH,
        drop_last=True,
        num_workers=num_workers,
        prefetch_factor=num_prefetches,
        persistent_workers=True,
    )
    try:
        yield loader
    finally:
        stop_workers(loader)
