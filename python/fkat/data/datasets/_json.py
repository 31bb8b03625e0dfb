"""Datasets of JSON lines."""

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
    from fkat.data.datasets._json_blocks import JsonBlocks

Uri = str | os.PathLike[str]


class JsonDataset(RandomAccessDataset):
    """Rows of files of JSON lines by index: a JSON object per line, blank lines aside.

    Values have the types they have in JSON, line by line: a row has the keys of its line, ``1`` is
    an int whatever other rows hold, text that looks like a date is text. With
    ``parse_options.explicit_schema`` blocks are parsed by ``pyarrow.json`` instead: every row has
    the columns of the schema in its order, with its types, None where a line lacks one; with
    ``unexpected_field_behavior="infer"`` (pyarrow's default) followed by other columns, whose types
    and presence may differ from block to block.

    Nothing is read before the first ``len()`` or row; then each file once, a block at a time, to
    count lines. After that a row costs reading its block of ``read_options.block_size`` bytes (1
    MiB by default); up to 128 MiB of blocks are kept in memory per process. ``__getitems__`` reads
    each block once. Negative indices and IndexError are as in a list; slices are not supported.

    A pickled dataset carries its index (a few numbers per block), no open file; a forked one opens
    its files anew.

    Args:
        uri: As in `ParquetDataset`. Files must not be compressed.
        read_options: A ``pyarrow.json.ReadOptions``; None for pyarrow's defaults.
        parse_options: A ``pyarrow.json.ParseOptions``; None for pyarrow's defaults.
        memory_pool: Where pyarrow allocates what it parses by a schema; None for its default pool,
            as always in processes that the dataset is sent to.
        replace_nan: None instead of NaN as the value of a key (not inside lists and objects). A
            null is None in any case.
        filesystem: As in `ParquetDataset`.
        storage_options: As in `ParquetDataset`.

    Raises:
        ImportError: There is no pyarrow.
        TypeError: An argument has the wrong type.
        ValueError: An argument has a value that cannot work: ``newlines_in_values=True``, or
            ``unexpected_field_behavior`` without a schema.

    Reading raises FileNotFoundError or another ``OSError`` for a file that cannot be read, and
    ``ValueError`` for a line that is no JSON object; both name the file.
    """

    def __init__(
        self,
        uri: Uri | Sequence[Uri],
        read_options: Any = None,
        parse_options: Any = None,
        memory_pool: Any = None,
        replace_nan: bool = True,
        *,
        filesystem: Any = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        require_pyarrow(self)
        options = (read_options, parse_options, memory_pool, replace_nan)
        super().__init__(_source(uri, *options, filesystem, storage_options)[0])


class IterableJsonDataset(StreamingDataset):
    """Rows of files of JSON lines in order, in bounded memory; rows are those of `JsonDataset`.

    A block of ``read_options.block_size`` bytes is read at a time (1 MiB by default, or one line),
    and ``chunk_size`` rows of it at a time become Python values.

    Among the workers of a ``DataLoader`` blocks are shared out: of n workers, worker w reads block
    b of file f where (f + b) mod n = w, and no other. Each row comes once.

    ``state_dict()`` is the position of the next row; after ``load_state_dict()`` the next
    ``iter()`` begins there and reads no earlier block. A state goes to as many workers as it came
    from, and to the same ``block_size``.

    Args:
        uri: As in `JsonDataset`.
        read_options: As in `JsonDataset`.
        parse_options: As in `JsonDataset`.
        memory_pool: As in `JsonDataset`.
        chunk_size: Rows made at a time. The rows are the same for any.
        replace_nan: As in `JsonDataset`.
        filesystem: As in `JsonDataset`.
        storage_options: As in `JsonDataset`.

    Raises:
        ImportError: There is no pyarrow.
        TypeError: An argument has the wrong type.
        ValueError: An argument has a value that cannot work.
    """

    def __init__(
        self,
        uri: Uri | Sequence[Uri],
        read_options: Any = None,
        parse_options: Any = None,
        memory_pool: Any = None,
        chunk_size: int = 10000,
        replace_nan: bool = True,
        *,
        filesystem: Any = None,
        storage_options: dict[str, Any] | None = None,
    ) -> None:
        require_pyarrow(self)
        options = (read_options, parse_options, memory_pool, replace_nan)
        chunk_size = arguments.integer("chunk_size", chunk_size, minimum=1)
        super().__init__(*_source(uri, *options, filesystem, storage_options), chunk_size)


def _source(
    uri: Any,
    read_options: Any,
    parse_options: Any,
    memory_pool: Any,
    replace_nan: bool,
    filesystem: Any,
    storage_options: Any,
) -> tuple[Callable[[], JsonBlocks], int]:
    # Imported here: they need pyarrow.
    from fkat.data.datasets._files import locate
    from fkat.data.datasets._json_blocks import JsonBlocks, checked_options

    replace_nan = arguments.boolean("replace_nan", replace_nan)
    options = checked_options(read_options, parse_options, memory_pool, replace_nan)
    locations = locate(uri, filesystem, storage_options)
    return functools.partial(JsonBlocks, locations, options), len(locations.uris)
