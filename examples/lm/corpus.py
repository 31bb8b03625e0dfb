"""Real text that every machine has, as Parquet shards: the standard library's own sources."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

BLOCK_SIZE = 1024
"""Tokens (bytes) in one row of a shard."""

ROWS_PER_GROUP = 64
"""Rows that are compressed, and so read, together."""

SEPARATOR = b"\x00"
"""The token between two documents: the one byte that never occurs in a source file."""

_NOT_TEXT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def source_files() -> Iterator[Path]:
    """The standard library's ``*.py`` files, sorted; no tests, no installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not _NOT_TEXT.intersection(path.relative_to(root).parts):
            yield path


def read_blocks(max_nbytes: int) -> list[bytes]:
    """The first ``max_nbytes`` of all documents end to end, cut into rows of BLOCK_SIZE tokens."""
    documents = []
    nbytes = 0
    for path in source_files():
        documents.append(path.read_bytes() + SEPARATOR)
        nbytes += len(documents[-1])
        if nbytes >= max_nbytes:
            break
    text = b"".join(documents)[:max_nbytes]
    return [text[i : i + BLOCK_SIZE] for i in range(0, len(text) - BLOCK_SIZE + 1, BLOCK_SIZE)]


def build_shards(folder: Path, num_shards: int, rows_per_shard: int) -> list[Path]:
    """Write the corpus as Parquet shards; their paths in order.

    Columns: ``id``, the row's number in the corpus, and ``text``, BLOCK_SIZE bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = read_blocks(num_shards * rows_per_shard * BLOCK_SIZE)
    paths: list[Path] = []
    for start in range(0, len(blocks), rows_per_shard):
        rows = blocks[start : start + rows_per_shard]
        table = pa.table({"id": range(start, start + len(rows)), "text": rows})
        path = folder / f"text-{len(paths):03}.parquet"
        pq.write_table(table, path, row_group_size=ROWS_PER_GROUP, compression="zstd")
        paths.append(path)
    return paths
