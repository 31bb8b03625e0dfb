"""Files as rows in blocks: what Parquet and JSON have in common.

A block is what is read at once: a row group of a Parquet file, a range of bytes of a JSON file.
Where blocks begin depends on the file and the constructor's arguments alone, so a position in one
means the same row in every process and in every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

Row = dict[str, Any]


class Block(Protocol):
    """Rows in memory, not yet Python values."""

    @property
    def num_rows(self) -> int:
        """How many."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that they take, about."""

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """The rows at these places of the block, in this order."""


class BlockSource(Protocol):
    """Files that are read by blocks. Used by one process alone."""

    def __len__(self) -> int:
        """Number of files."""

    def uri(self, file: int) -> str:
        """The name of a file."""

    def count_blocks(self, file: int) -> int:
        """Number of blocks in a file."""

    def count_rows(self, file: int) -> list[int]:
        """Rows of each block of a file. May be called by several threads at once."""

    def read(self, file: int, block: int) -> Block:
        """A whole block."""

    def stream(self, file: int, block: int, start: int, chunk_size: int) -> Iterator[list[Row]]:
        """The rows of a block from ``start`` on, at most ``chunk_size`` at a time.

        Raises:
            ValueError: The block has fewer than ``start`` rows.
        """


def check_start(source: BlockSource, file: int, block: int, start: int, num_rows: int) -> None:
    """Refuse to begin behind a block's last row.

    Raises:
        ValueError: Says that the position is one of other data.
    """
    if start > num_rows:
        raise ValueError(
            f"block {block} of {source.uri(file)} has {num_rows} rows, the state to go on from "
            f"stands behind row {start}: it was saved for other data or other arguments"
        )
