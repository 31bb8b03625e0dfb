"""Parquet files by row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from fkat.data.datasets._blocks import Row, check_start
from fkat.data.datasets._files import Files, Locations
from fkat.data.datasets._recent import Recent
from fkat.data.datasets._tables import TableBlock, to_rows

_NUM_OPEN_FILES = 8  # keeps the footers of as many in memory

# By whether chunks of a row group are wanted one after another: pyarrow would read all of it ahead.
_READING: dict[bool, dict[str, Any]] = {
    True: {"buffer_size": 1 << 20, "pre_buffer": False},
    False: {"pre_buffer": True},
}


@dataclass(frozen=True)
class ParquetOptions:
    """What to read, and how: arguments of the datasets, and what kind of dataset it is."""

    columns: tuple[str, ...] | None
    use_threads: bool
    replace_nan: bool
    in_pieces: bool  # 1 MiB of a column at a time, not whole row groups


class RowGroups:
    """A `BlockSource` whose blocks are row groups.

    Args:
        locations: Of the files.
        options: What to read of them.
    """

    def __init__(self, locations: Locations, options: ParquetOptions) -> None:
        self._files = Files(locations)
        self._options = options
        self._columns = None if options.columns is None else list(options.columns)
        self._open_files: Recent[int, Any] = Recent(self._open, _NUM_OPEN_FILES)

    def __len__(self) -> int:
        return len(self._files)

    def uri(self, file: int) -> str:
        """The name of a file."""
        return self._files.uri(file)

    def count_blocks(self, file: int) -> int:
        """Number of row groups; reads the footer."""
        return int(self._open_files.get(file).num_row_groups)

    def count_rows(self, file: int) -> list[int]:
        """Rows of each row group; reads the footer."""
        with self._open(file) as opened, self._files.naming(file):
            footer = opened.metadata
            return [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]

    def read(self, file: int, block: int) -> TableBlock:
        """A row group, decoded."""
        opened = self._open_files.get(file)
        with self._files.naming(file):
            table = opened.read_row_group(
                block, columns=self._columns, use_threads=self._options.use_threads
            )
        return TableBlock(self._in_order(table), self._options.replace_nan)

    def stream(self, file: int, block: int, start: int, chunk_size: int) -> Iterator[list[Row]]:
        """Rows of a row group, decoded chunk by chunk."""
        opened = self._open_files.get(file)
        check_start(self, file, block, start, opened.metadata.row_group(block).num_rows)
        batches = opened.iter_batches(
            chunk_size,
            row_groups=[block],
            columns=self._columns,
            use_threads=self._options.use_threads,
        )
        while True:
            with self._files.naming(file):
                batch = next(batches, None)
            if batch is None:
                return
            if start < batch.num_rows:
                yield to_rows(self._in_order(batch.slice(start)), self._options.replace_nan)
            start = max(start - batch.num_rows, 0)

    def _open(self, file: int) -> Any:
        opened = self._files.open(file)
        with self._files.naming(file):
            parquet = pq.ParquetFile(opened, **_READING[self._options.in_pieces])
            _check_columns(self._columns or [], parquet.schema_arrow.names)
        return parquet

    def _in_order(self, table: Any) -> Any:
        # Parquet's own order is that of the file; and a name with a dot may select more than asked.
        return table if self._columns is None else table.select(self._columns)


def _check_columns(columns: Sequence[str], names: Sequence[str]) -> None:
    if unknown := [column for column in columns if column not in names]:
        raise ValueError(
            f"it has no column {', '.join(map(repr, unknown))}, only "
            f"{', '.join(map(repr, names))}: change columns"
        )
