"""Microbatches that are ready in warm memory: nothing is left to do but to hand them over."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

POOL_SIZE = 3
"""Microbatches in the pool: enough that no copy can be mistaken for its neighbour's."""

ENDLESS = 10_000_000
"""Length of a dataset whose end nobody sees."""

_PATTERN_LENGTH = 1_048_573
"""Bytes that are random before they repeat; prime, so that a shifted copy never looks right."""


@dataclass(frozen=True)
class TensorSpec:
    """One array of a microbatch: its key, numpy dtype and shape."""

    key: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Payload bytes of this array."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Case:
    """One kind of microbatch."""

    title: str
    specs: tuple[TensorSpec, ...]

    @property
    def nbytes(self) -> int:
        """Payload bytes of one microbatch."""
        return sum(spec.nbytes for spec in self.specs)


def equal_tensors(title: str, count: int, nbytes: int) -> Case:
    """A microbatch of ``count`` float32 tensors of ``nbytes`` each."""
    specs = (TensorSpec(f"feature_{i:03}", "float32", (nbytes // 4,)) for i in range(count))
    return Case(title, tuple(specs))


TWENTY = equal_tensors("20 tensors of 16 KiB", 20, 16 << 10)
"""Of the hand-off, and of the benchmark into a GPU."""

Arrays = dict[str, np.ndarray]


def _random_array(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    """Random payload that no float comparison can trip over (no NaN bit patterns)."""
    length = min(int(np.prod(spec.shape)), _PATTERN_LENGTH)
    if spec.dtype == "float32":
        pattern = rng.random(length, dtype=np.float32)
    else:
        pattern = rng.integers(0, 256, length, dtype=spec.dtype)
    return np.resize(pattern, spec.shape)


@cache
def pool_of(case: Case) -> tuple[Arrays, ...]:
    """The warm arrays of a case: the same bytes in every process, made once in each."""
    rng = np.random.default_rng(2024)
    return tuple(
        {spec.key: _random_array(spec, rng) for spec in case.specs} for _ in range(POOL_SIZE)
    )


class PoolDataset(Dataset[dict[str, torch.Tensor]]):
    """Item ``i`` is a dict of tensors over pool entry ``i % 3``; each is a new storage.

    New, because torch copies a storage to shared memory only the first time it is sent: a dataset
    that returns the same tensors again would measure a hand-off without its copy.
    """

    def __init__(self, case: Case, num_items: int = ENDLESS) -> None:
        self.case = case
        self.num_items = num_items

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        arrays = pool_of(self.case)[index % POOL_SIZE]
        return {key: torch.from_numpy(array) for key, array in arrays.items()}


def as_it_is(microbatch: Any) -> Any:
    """The collate function of every loader: the microbatch is ready, nothing is to be done to it.

    (DataLoader's default would walk it and convert arrays, in every loader of the comparison.)
    """
    return microbatch


def in_process_loader(case: Case, num_items: int = ENDLESS) -> DataLoader[dict[str, torch.Tensor]]:
    """The source as a DataLoader: no worker, no collation."""
    return DataLoader(PoolDataset(case, num_items), batch_size=None, collate_fn=as_it_is)
