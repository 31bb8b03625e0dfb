"""Windows of tokens from the shards, and the DataLoader that both runs of the demo use."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from torch.utils.data import DataLoader, Dataset

from lm.corpus import BLOCK_SIZE

Sample = dict[str, torch.Tensor]


@lru_cache(maxsize=8)
def _read_group(path: Path, group: int) -> np.ndarray:
    """One row group as rows of byte tokens; a few stay in memory, the file never does."""
    column = pq.ParquetFile(path).read_row_group(group, columns=["tokens"]).column(0)
    tokens: np.ndarray = column.combine_chunks().values.to_numpy()
    return tokens.reshape(-1, BLOCK_SIZE)


class TokenWindows(Dataset[Sample]):
    """Sample ``i`` is a window at a random place in row ``i`` of the shards.

    The place depends on the seed and ``i`` alone, so every loader reads the same samples,
    whatever process and whatever order it reads them in.
    """

    def __init__(self, shards: Sequence[Path], window_size: int, seed: int) -> None:
        self.window_size = window_size
        self.seed = seed
        self._groups: list[tuple[Path, int]] = []
        self._ends: list[int] = []  # for each row group, the index of its last row + 1
        num_rows = 0
        for path in shards:
            metadata = pq.read_metadata(path)
            for group in range(metadata.num_row_groups):
                num_rows += metadata.row_group(group).num_rows
                self._groups.append((path, group))
                self._ends.append(num_rows)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        which = bisect_right(self._ends, index)
        first = self._ends[which - 1] if which else 0
        row = _read_group(*self._groups[which])[index - first]
        rng = np.random.default_rng((self.seed, index))
        start = int(rng.integers(BLOCK_SIZE - self.window_size))
        window = torch.from_numpy(row[start : start + self.window_size + 1].astype(np.int64))
        return {"input_ids": window[:-1], "labels": window[1:]}


def make_loader(
    shards: Sequence[Path],
    seed: int,
    batch_size: int,
    window_size: int,
    num_workers: int = 0,
    prefetch_factor: int | None = None,
) -> DataLoader[Sample]:
    """Shuffled microbatches of windows: an ordinary DataLoader with the default collation."""
    return DataLoader(
        TokenWindows(shards, window_size, seed),
        batch_size=batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        drop_last=True,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        persistent_workers=num_workers > 0,
    )
