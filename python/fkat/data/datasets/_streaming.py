"""Rows of files in order, from any row on, shared out among workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from fkat.data.datasets._blocks import BlockSource, Row
from fkat.data.datasets._per_process import PerProcess


class _Position(NamedTuple):
    """The next row of a pass."""

    file: int
    block: int
    row: int


_START = _Position(0, 0, 0)
_KEYS = (*_Position._fields, "worker", "num_workers")


class StreamingDataset(IterableDataset[Row]):
    """Rows in order.

    Of a ``DataLoader``'s n workers, worker w yields the rows of block b of file f where
    (f + b) mod n = w, and reads no others: each row comes once.

    The state is that of the pass begun last. ``load_state_dict()`` is for the next ``iter()``
    alone; those that follow begin at the first row.

    Args:
        open_source: Opens the files; called once in every process that reads.
        num_files: How many there are.
        chunk_size: Rows made at a time.
    """

    def __init__(
        self, open_source: Callable[[], BlockSource], num_files: int, chunk_size: int
    ) -> None:
        self._source = PerProcess(open_source)
        self._num_files = num_files
        self._chunk_size = chunk_size
        self._position = _START
        self._saved_for: tuple[int, int] | None = None  # (worker, num_workers) of a loaded state

    def __iter__(self) -> Iterator[Row]:
        """Rows from the loaded position on, or from the first.

        Raises:
            ValueError: The state was saved by another worker, or among another number of them; or
                (from ``next()``) it is one of other data.
        """
        share = _share()
        start = _START
        if self._saved_for is not None:
            if self._saved_for != share:
                raise ValueError(
                    f"this state was saved by worker {self._saved_for[0]} of {self._saved_for[1]}, "
                    f"it cannot be gone on from by worker {share[0]} of {share[1]}: use as many "
                    "workers as when it was saved (DataLoader's num_workers)"
                )
            start, self._saved_for = self._position, None
        self._position = start
        return self._rows(start, *share)

    def state_dict(self) -> dict[str, int]:
        """The position of the row that comes next; of the first, when all have come.

        ``file``, ``block`` in the file, ``row`` in the block, and the ``worker`` of ``num_workers``
        whose position it is (0 of 1 outside workers).
        """
        return dict(zip(_KEYS, (*self._position, *(self._saved_for or _share())), strict=True))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next ``iter()`` begin at a position; ``{}`` changes nothing.

        Raises:
            ValueError: It is no state of such a dataset, or one of more files.
        """
        if state_dict == {}:
            return
        _check(state_dict, self._num_files)
        file, block, row, worker, num_workers = (state_dict[key] for key in _KEYS)
        self._position = _Position(file, block, row)
        self._saved_for = (worker, num_workers)

    def _rows(self, start: _Position, worker: int, num_workers: int) -> Iterator[Row]:
        source = self._source.get()
        for file in range(start.file, len(source)):
            num_blocks = source.count_blocks(file)
            first, row = (start.block, start.row) if file == start.file else (0, 0)
            if row and first >= num_blocks:
                raise ValueError(
                    f"{source.uri(file)} has {num_blocks} blocks, the state to go on from stands "
                    f"in block {first}: it was saved for other data or other arguments"
                )
            for block in range(first, num_blocks):
                if (file + block) % num_workers != worker:
                    continue
                for rows in source.stream(file, block, row, self._chunk_size):
                    for sample in rows:
                        row += 1
                        self._position = _Position(file, block, row)
                        yield sample
                row = 0
        self._position = _START


def _share() -> tuple[int, int]:
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def _check(state: Any, num_files: int) -> None:
    if not isinstance(state, dict) or set(state) != set(_KEYS):
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(
            f"a state of this dataset is a dict with the keys {', '.join(_KEYS)}; got {found}"
        )
    for key in _KEYS:
        if type(state[key]) is not int or state[key] < 0:
            raise ValueError(f"{key!r} in a state must be an int of at least 0, got {state[key]!r}")
    if state["file"] >= num_files:
        raise ValueError(
            f"this state stands in file {state['file']}, counted from 0, and there are "
            f"{num_files} files: it was saved for another uri"
        )
