"""Lines of a file by ranges of bytes, and JSON objects in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fkat.data.datasets._blocks import Row

_TAIL_NBYTES = 16 << 10  # read at first to find the end of the last line; then twice as much, ...


def read_lines(file: Any, size: int, start: int, nbytes: int) -> bytes:
    """The lines, whole, whose first byte is one of ``nbytes`` from ``start`` on.

    Args:
        file: Open for random access, as a ``pyarrow.NativeFile``.
        size: Bytes of the file.
        start: Offset in bytes.
        nbytes: Length of the range in bytes. A line longer than that is read all the same.
    """
    begin = max(start - 1, 0)  # the byte before tells whether a line begins at the first
    end = min(start + nbytes, size)
    data: bytes = file.read_at(end - begin, begin)
    if start > 0:
        data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
    pieces = [data]
    tail_nbytes = min(_TAIL_NBYTES, nbytes)
    while data and end < size and not pieces[-1].endswith(b"\n"):
        more = file.read_at(min(tail_nbytes, size - end), end)
        end += len(more)
        tail_nbytes *= 2
        pieces.append(more[: more.find(b"\n") + 1] if b"\n" in more else more)
        if not more:
            raise OSError(f"the file ends at byte {end}, it had {size} when it was opened")
    return b"".join(pieces)


def split(lines: bytes) -> list[bytes]:
    """The lines that are not blank, as pyarrow's reader counts them."""
    return [line for line in lines.split(b"\n") if line.strip()]


class LinesBlock:
    """A `Block` of JSON objects, a line each, parsed when asked for.

    Args:
        lines: Of UTF-8.
        uri: Of their file, for errors.
        replace_nan: None instead of NaN as a value of a row.
    """

    def __init__(self, lines: list[bytes], uri: str, replace_nan: bool) -> None:
        self._lines = lines
        self._uri = uri
        self._replace_nan = replace_nan

    @property
    def num_rows(self) -> int:
        """How many rows."""
        return len(self._lines)

    @property
    def nbytes(self) -> int:
        """Bytes of the lines, and of the objects that hold them."""
        return sum(map(len, self._lines)) + 41 * len(self._lines)  # sys.getsizeof(b"") and a slot

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """The rows at these places, in this order."""
        return [self._row(self._lines[index]) for index in indices]

    def _row(self, line: bytes) -> Row:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{self._uri} has a line that is no JSON ({error}): {line[:80]!r}"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"{self._uri} has a line that is no JSON object: {line[:80]!r}")
        if self._replace_nan:
            return {k: None if value != value else value for k, value in row.items()}
        return row
