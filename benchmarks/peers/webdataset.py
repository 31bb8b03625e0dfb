"""WebDataset: documents in tar files, read by its pipeline in its ``WebLoader``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import webdataset
from torch.utils.data import default_collate

from benchmarks.peers.dataloader import stop_workers
from benchmarks.sources.text import ROWS_PER_MICROBATCH, Document, Row, packed_rows


def write(folder: Path, shards: Sequence[Sequence[Document]]) -> None:
    """A tar file for each shard; the number of a document is its key."""
    for place, shard in enumerate(shards):
        with webdataset.TarWriter(str(folder / f"{place:04}.tar")) as writer:
            for number, text in shard:
                writer.write({"__key__": f"{number:06}", "txt": text})


def _packed(samples: Iterable[tuple[str, str]]) -> Iterator[Row]:
    return packed_rows((int(key), text) for key, text in samples)


@contextmanager
def open_loader(folder: Path, num_workers: int, num_prefetches: int) -> Iterator[Iterable[Any]]:
    """``WebLoader`` over a pipeline that reads, packs and batches in each worker."""
    dataset = (
        webdataset.WebDataset(sorted(map(str, folder.iterdir())), shardshuffle=False)
        .decode()
        .to_tuple("__key__", "txt")
        .compose(_packed)
        .batched(ROWS_PER_MICROBATCH, collation_fn=default_collate, partial=False)
    )
    loader = webdataset.WebLoader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=num_prefetches,
        persistent_workers=True,
    )
    try:
        yield loader
    finally:
        for stage in loader.pipeline:
            stop_workers(stage)
