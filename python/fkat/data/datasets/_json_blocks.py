"""Files of JSON lines by ranges of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.json as pj  # type: ignore[import-untyped]

from fkat.data.datasets._blocks import Block, Row, check_start
from fkat.data.datasets._files import Files, Locations
from fkat.data.datasets._lines import LinesBlock, read_lines, split
from fkat.data.datasets._recent import Recent
from fkat.data.datasets._tables import TableBlock

_NUM_OPEN_FILES = 8


@dataclass(frozen=True)
class JsonOptions:
    """How to parse; the arguments of the same names of the datasets, or their defaults."""

    read_options: Any
    parse_options: Any
    memory_pool: Any
    replace_nan: bool

    def __getstate__(self) -> dict[str, Any]:
        """Another process has memory pools of its own: there it is the default one."""
        return {**vars(self), "memory_pool": None}


class JsonBlocks:
    """A `BlockSource`: block k holds the lines that begin in its k-th range of bytes.

    A range is ``read_options.block_size`` bytes.

    Args:
        locations: Of the files.
        options: How to parse them.
    """

    def __init__(self, locations: Locations, options: JsonOptions) -> None:
        self._files = Files(locations)
        self._options = options
        self._block_nbytes = int(options.read_options.block_size)
        self._open_files: Recent[int, tuple[Any, int]] = Recent(self._open, _NUM_OPEN_FILES)

    def __len__(self) -> int:
        return len(self._files)

    def uri(self, file: int) -> str:
        """The name of a file."""
        return self._files.uri(file)

    def count_blocks(self, file: int) -> int:
        """Number of ranges; asks for the file's size."""
        return -(-self._open_files.get(file)[1] // self._block_nbytes)

    def count_rows(self, file: int) -> list[int]:
        """Rows of each block; reads the whole file, a block at a time."""
        opened, size = self._open(file)
        with self._files.naming(file), opened:
            starts = range(0, size, self._block_nbytes)
            return [
                sum(map(bool, map(bytes.strip, self._lines(opened, size, start).split(b"\n"))))
                for start in starts
            ]

    def read(self, file: int, block: int) -> Block:
        """The rows of a block: parsed by pyarrow if there is a schema, else yet to be parsed."""
        opened, size = self._open_files.get(file)
        with self._files.naming(file):
            lines = self._lines(opened, size, block * self._block_nbytes)
            if self._options.parse_options.explicit_schema is None:
                return LinesBlock(split(lines), self.uri(file), self._options.replace_nan)
            table = _parse(lines, self._options)
        return TableBlock(table, self._options.replace_nan)

    def stream(self, file: int, block: int, start: int, chunk_size: int) -> Iterator[list[Row]]:
        """The rows of a block, chunk by chunk."""
        found = self.read(file, block)
        check_start(self, file, block, start, found.num_rows)
        for begin in range(start, found.num_rows, chunk_size):
            yield found.rows(range(begin, min(begin + chunk_size, found.num_rows)))

    def _lines(self, opened: Any, size: int, start: int) -> bytes:
        return read_lines(opened, size, start, self._block_nbytes)

    def _open(self, file: int) -> tuple[Any, int]:
        opened = self._files.open(file)
        with self._files.naming(file):
            return opened, opened.size()


def _parse(lines: bytes, options: JsonOptions) -> Any:
    schema = options.parse_options.explicit_schema
    rows = split(lines)
    if not rows:
        return schema.empty_table()
    # One block of pyarrow's, so that all rows get the same types.
    read_options = pj.ReadOptions(options.read_options.use_threads, block_size=len(lines) + 1)
    table = pj.read_json(
        pa.BufferReader(lines), read_options, options.parse_options, options.memory_pool
    )
    if table.num_rows != len(rows):
        raise ValueError(
            f"{len(rows)} lines hold {table.num_rows} rows: each line must be one JSON object"
        )
    return table


def checked_options(
    read_options: Any, parse_options: Any, memory_pool: Any, replace_nan: bool
) -> JsonOptions:
    """Options with pyarrow's defaults for those that are None.

    Raises:
        TypeError: One is of another type.
        ValueError: They ask for what lines of JSON cannot give.
    """
    for name, value, kind in (
        ("read_options", read_options, pj.ReadOptions),
        ("parse_options", parse_options, pj.ParseOptions),
        ("memory_pool", memory_pool, pa.MemoryPool),
    ):
        if value is not None and not isinstance(value, kind):
            raise TypeError(
                f"{name} must be a {kind.__module__}.{kind.__name__}, got a {type(value).__name__}"
            )
    parse = parse_options or pj.ParseOptions()
    if parse.newlines_in_values:
        raise ValueError("parse_options.newlines_in_values must be False: a row is one line")
    if parse.explicit_schema is None and parse.unexpected_field_behavior != "infer":
        raise ValueError(
            f"parse_options.unexpected_field_behavior={parse.unexpected_field_behavior!r} needs an "
            "explicit_schema, which says what is expected"
        )
    return JsonOptions(read_options or pj.ReadOptions(), parse, memory_pool, replace_nan)
