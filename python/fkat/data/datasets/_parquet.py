"""Datasets of Parquet files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fkat.data import _arguments as arguments
from fkat.data.datasets._random_access import RandomAccessDataset
from fkat.data.datasets._require import require_pyarrow
from fkat.data.datasets._streaming import StreamingDataset

if TYPE_CHECKING:
    from fkat.data.datasets._row_groups import RowGroups

Uri = str | os.PathLike[str]


class ParquetDataset(RandomAccessDataset):
    """Rows of Parquet files by index, each a dict of Python values.

    Nothing is read before the first ``len()`` or row; then the footers, and row groups as their
    rows are asked for. Up to 128 MiB of decoded row groups are kept in memory per process, and the
    last one however large it is: random access wants row groups that are small, or samplers that
    stay in one. ``__getitems__`` reads each row group once. Negative indices and IndexError are as
    in a list; slices are not supported.

    A pickled dataset carries its index (a few numbers per row group), no open file; a forked one
    opens its files anew.

    Args:
        uri: A file or a list of them, whose rows follow one another: paths, ``file://``, or URIs of
            pyarrow (``s3://bucket/key?region=...``) or of fsspec, where pyarrow does not know the
            scheme.
        columns: Columns to read, in the order that rows have them; None for each file's own.
        use_threads: Decode columns in parallel.
        replace_nan: None instead of NaN in columns of floating-point numbers (not inside lists and
            structs). A null is None in any case.
        filesystem: A filesystem of pyarrow or fsspec to read from. One whose connections live in
            threads, such as pyarrow's S3, does not survive a fork once used: start workers by spawn
            or forkserver.
        storage_options: Options of fsspec's filesystem, which is then used for every scheme.

    Raises:
        ImportError: There is no pyarrow.
        TypeError: An argument has the wrong type.
        ValueError: An argument has a value that cannot work.

    Reading raises FileNotFoundError or another ``OSError`` for a file that cannot be read, and
    ``ValueError`` for one that is no Parquet file or lacks a column; both name the file. Timestamps
    in nanoseconds become ``pandas.Timestamp`` where there is pandas, ``datetime`` otherwise.
    """

    def __init__(
        self,
        uri: Uri | Sequence[Uri],
        columns: Sequence[str] | None = None,
        use_threads: bool = True,
        replace_nan: bool = True,
        *,
        filesystem: Any = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        require_pyarrow(self)
        super().__init__(
            _source(uri, columns, use_threads, replace_nan, filesystem, storage_options, False)[0]
        )


class IterableParquetDataset(StreamingDataset):
    """Rows of Parquet files in order, each a dict of Python values, in bounded memory.

    Rows are decoded ``chunk_size`` at a time, from 1 MiB of compressed bytes per column.

    Among the workers of a ``DataLoader`` row groups are shared out: of n workers, worker w reads
    row group g of file f where (f + g) mod n = w, and every footer. Each row comes once.

    ``state_dict()`` is the position of the next row; after ``load_state_dict()`` the next
    ``iter()`` begins there and reads no earlier row group. A state goes to as many workers as it
    came from.

    Args:
        uri: As in `ParquetDataset`.
        columns: As in `ParquetDataset`.
        use_threads: As in `ParquetDataset`.
        chunk_size: Rows made at a time. The rows are the same for any.
        replace_nan: As in `ParquetDataset`.
        filesystem: As in `ParquetDataset`.
        storage_options: As in `ParquetDataset`.

    Raises:
        ImportError: There is no pyarrow.
        TypeError: An argument has the wrong type.
        ValueError: An argument has a value that cannot work.
    """

    def __init__(
        self,
        uri: Uri | Sequence[Uri],
        columns: Sequence[str] | None = None,
        use_threads: bool = True,
        chunk_size: int = 10000,
        replace_nan: bool = True,
        *,
        filesystem: Any = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        require_pyarrow(self)
        chunk_size = arguments.integer("chunk_size", chunk_size, minimum=1)
        super().__init__(
            *_source(uri, columns, use_threads, replace_nan, filesystem, storage_options, True),
            chunk_size,
        )


def _source(
    uri: Any,
    columns: Any,
    use_threads: bool,
    replace_nan: bool,
    filesystem: Any,
    storage_options: Any,
    in_pieces: bool,
) -> tuple[Callable[[], RowGroups], int]:
    # Imported here: they need pyarrow.
    from fkat.data.datasets._files import locate
    from fkat.data.datasets._row_groups import ParquetOptions, RowGroups

    options = ParquetOptions(
        _columns(columns),
        arguments.boolean("use_threads", use_threads),
        arguments.boolean("replace_nan", replace_nan),
        in_pieces,
    )
    locations = locate(uri, filesystem, storage_options)
    return functools.partial(RowGroups, locations, options), len(locations.uris)


def _columns(columns: Any) -> tuple[str, ...] | None:
    if columns is None:
        return None
    if isinstance(columns, str) or not all(isinstance(column, str) for column in columns):
        raise TypeError(f"columns must be a list of names, got {columns!r}")
    if not columns or len(set(columns)) < len(columns):
        raise ValueError(f"columns must name at least one, and each once, got {columns!r}")
    return tuple(columns)
