"""Real text that every machine has, as Parquet shards: the standard library's own sources."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

BLOCK_SIZE = 1024
"""Tokens (bytes) in one row of a shard."""

ROWS_PER_GROUP = 64
"""Rows that are compressed, and so read, together."""

ROWS_PER_SHARD = 1024
SEPARATOR = b"\x00"
"""The token between two documents: the one byte that never occurs in a source file."""

_NOT_TEXT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def source_files() -> Iterator[Path]:
    """The standard library's ``*.py`` files, sorted; no tests, no installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not _NOT_TEXT.intersection(path.relative_to(root).parts):
            yield path


def read_blocks(max_nbytes: int) -> np.ndarray:
    """The first ``max_nbytes`` of all documents end to end, as rows of BLOCK_SIZE byte tokens."""
    documents = []
    nbytes = 0
    for path in source_files():
        documents.append(path.read_bytes() + SEPARATOR)
        nbytes += len(documents[-1])
        if nbytes >= max_nbytes:
            break
    tokens = np.frombuffer(b"".join(documents)[:max_nbytes], dtype=np.uint8)
    num_blocks = len(tokens) // BLOCK_SIZE
    return tokens[: num_blocks * BLOCK_SIZE].reshape(num_blocks, BLOCK_SIZE)


def build_shards(folder: Path, max_nbytes: int) -> list[Path]:
    """Write the corpus as Parquet shards of one column, ``tokens``; their paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = read_blocks(max_nbytes)
    paths: list[Path] = []
    for start in range(0, len(blocks), ROWS_PER_SHARD):
        rows = blocks[start : start + ROWS_PER_SHARD]
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), BLOCK_SIZE)
        path = folder / f"tokens-{len(paths):03}.parquet"
        pq.write_table(
            pa.table({"tokens": column}), path, row_group_size=ROWS_PER_GROUP, compression="zstd"
        )
        paths.append(path)
    return paths
