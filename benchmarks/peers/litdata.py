"""LitData: documents in its optimised chunks, read by its streaming loader."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")  # it would ask the network
import litdata

from benchmarks.peers.dataloader import stop_workers
from benchmarks.sources.text import ROWS_PER_MICROBATCH, SHARD_NBYTES, Document, Row, packed_rows


def _sample(document: Document) -> dict[str, Any]:
    number, text = document
    return {"number": number, "text": text}


def write(folder: Path, shards: Sequence[Sequence[Document]]) -> None:
    """Chunks of about the size of the shards."""
    with redirect_stdout(io.StringIO()):
        litdata.optimize(
            _sample,
            [document for shard in shards for document in shard],
            str(folder),
            chunk_bytes=SHARD_NBYTES,
            num_workers=1,
            start_method="fork",  # it would set spawn for this whole process, loader included
            verbose=False,
        )


class PackedText(litdata.StreamingDataset):  # type: ignore[misc]
    """Packs the documents that a worker reads."""

    def _documents(self) -> Iterator[Document]:
        super().__iter__()  # it is its own iterator, and starts again with this
        while True:
            try:
                sample = next(self)
            except StopIteration:
                return
            yield sample["number"], sample["text"]

    def __iter__(self) -> Iterator[Row]:
        rows = packed_rows(self._documents())
        # Of whole microbatches: its loader cannot drop the last one.
        while len(microbatch := list(islice(rows, ROWS_PER_MICROBATCH))) == ROWS_PER_MICROBATCH:
            yield from microbatch


@contextmanager
def open_loader(folder: Path, num_workers: int, num_prefetches: int) -> Iterator[Iterable[Any]]:
    """Its ``StreamingDataLoader``, without shuffling."""
    loader = litdata.StreamingDataLoader(
        PackedText(str(folder), shuffle=False, drop_last=False),
        batch_size=ROWS_PER_MICROBATCH,
        num_workers=num_workers,
        prefetch_factor=num_prefetches,
        persistent_workers=True,
    )
    try:
        yield loader
    finally:
        stop_workers(loader)
