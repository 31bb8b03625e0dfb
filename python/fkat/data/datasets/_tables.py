"""Arrow tables as rows of Python values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from fkat.data.datasets._blocks import Row


def to_rows(table: Any, replace_nan: bool) -> list[Row]:
    """The rows of a table or record batch.

    Args:
        table: Of pyarrow.
        replace_nan: None instead of NaN in its floating-point columns.
    """
    names = table.schema.names
    if not names:
        return [{} for _ in range(table.num_rows)]
    columns = [_values(column, replace_nan) for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


class TableBlock:
    """A `Block` that is a table.

    Args:
        table: Of pyarrow.
        replace_nan: As in `to_rows`.
    """

    def __init__(self, table: Any, replace_nan: bool) -> None:
        self._table = table
        self._replace_nan = replace_nan

    @property
    def num_rows(self) -> int:
        """How many rows."""
        return int(self._table.num_rows)

    @property
    def nbytes(self) -> int:
        """Bytes of its buffers."""
        return int(self._table.nbytes)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        """The rows at these places, in this order."""
        return to_rows(self._table.take(pa.array(indices, pa.int64())), self._replace_nan)


def _values(column: Any, replace_nan: bool) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if replace_nan and pa.types.is_floating(column.type):
        return [None if value != value else value for value in values]
    return values
