"""Rows of files by index."""

from __future__ import annotations

import bisect
import functools
import itertools
import operator
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from fkat.data.datasets._blocks import Block, BlockSource, Row
from fkat.data.datasets._per_process import PerProcess
from fkat.data.datasets._recent import Recent

CACHE_NBYTES = 128 << 20  # of blocks in memory, per dataset and process
_NUM_INDEXING_THREADS = 8  # an index of many remote files is mostly waiting


class _Index(NamedTuple):
    """Where each row is, in plain values: travels to workers, who need not make it again."""

    blocks: list[tuple[int, int]]  # (file, block), of those that have rows
    ends: list[int]  # rows in all blocks up to and including this one


class RandomAccessDataset(Dataset[Row]):
    """Rows by index; nothing is read before the first ``len()`` or row.

    Args:
        open_source: Opens the files; called once in every process that reads.
    """

    def __init__(self, open_source: Callable[[], BlockSource]) -> None:
        self._reader = PerProcess(functools.partial(_Reader, open_source))
        self._index: _Index | None = None

    def __len__(self) -> int:
        """Number of rows in all files."""
        ends = self._located().ends
        return ends[-1] if ends else 0

    def __getitem__(self, index: int) -> Row:
        """The row at ``index``; a negative one counts from the end.

        Raises:
            IndexError: There is no such row.
            TypeError: ``index`` is not an integer.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Row]:
        """The rows at ``indices``, in their order; each block is looked up once."""
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for position, index in enumerate(indices):
            block, row = self._locate(index)
            wanted[block].append((position, row))
        rows: dict[int, Row] = {}
        for block, places in wanted.items():
            found = self._reader.get().blocks.get(block).rows([row for _, row in places])
            rows.update(zip((position for position, _ in places), found, strict=True))
        return [rows[position] for position in range(len(rows))]

    def _locate(self, index: Any) -> tuple[tuple[int, int], int]:
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(
                f"a row's index must be an int, got {index!r} of type {type(index).__name__}: "
                "for several rows use torch.utils.data.Subset"
            ) from None
        count = len(self)
        if not -count <= number < count:
            raise IndexError(f"row {number} of a dataset with {count} rows")
        number %= count
        blocks, ends = self._located()
        place = bisect.bisect_right(ends, number)
        return blocks[place], number - (ends[place - 1] if place else 0)

    def _located(self) -> _Index:
        if self._index is None:
            source = self._reader.get().source
            with ThreadPoolExecutor(min(_NUM_INDEXING_THREADS, len(source))) as threads:
                counts = list(threads.map(source.count_rows, range(len(source))))
            sizes = [
                ((file, block), num_rows)
                for file, blocks in enumerate(counts)
                for block, num_rows in enumerate(blocks)
                if num_rows
            ]
            ends = list(itertools.accumulate(num_rows for _, num_rows in sizes))
            self._index = _Index([block for block, _ in sizes], ends)
        return self._index


class _Reader:
    def __init__(self, open_source: Callable[[], BlockSource]) -> None:
        self.source = source = open_source()
        self.blocks: Recent[tuple[int, int], Block] = Recent(
            lambda place: source.read(*place), CACHE_NBYTES, lambda block: block.nbytes
        )
