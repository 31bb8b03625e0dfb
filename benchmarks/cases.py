"""The microbatches that are handed over, and the pool of warm memory they come from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

POOL_SIZE = 3
"""Microbatches in the pool: enough that no copy can be mistaken for its neighbour's."""


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
    """One kind of microbatch, and how many of them make one pass.

    Loaders that are ten and more times faster get more, so that their passes, too, are longer than
    a hiccup of the machine.
    """

    name: str
    title: str
    specs: tuple[TensorSpec, ...]
    num_items: int
    num_items_if_fast: int

    @property
    def nbytes(self) -> int:
        """Payload bytes of one microbatch."""
        return sum(spec.nbytes for spec in self.specs)


CASES = {
    case.name: case
    for case in (
        Case(
            "a",
            "20 tensors of 16 KiB",
            tuple(TensorSpec(f"feature_{i:02}", "float32", (4096,)) for i in range(20)),
            num_items=150,
            num_items_if_fast=1500,
        ),
        Case(
            "b",
            "3 token tensors of 4x8192, 544 KiB in all",
            (
                TensorSpec("input_ids", "int64", (4, 8192)),
                TensorSpec("position_ids", "int64", (4, 8192)),
                TensorSpec("mask", "uint8", (4, 8192)),
            ),
            num_items=300,
            num_items_if_fast=3000,
        ),
        Case(
            "c",
            "1 tensor of 4 KiB",
            (TensorSpec("x", "float32", (1024,)),),
            num_items=1500,
            num_items_if_fast=15000,
        ),
        Case(
            "d",
            "2 tensors of 32 MiB",
            tuple(TensorSpec(key, "float32", (8, 1 << 20)) for key in ("x", "y")),
            num_items=36,
            num_items_if_fast=72,
        ),
    )
}

Arrays = dict[str, np.ndarray]


def _random_array(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    """Random payload that no float comparison can trip over (no NaN bit patterns)."""
    if spec.dtype == "float32":
        return rng.random(spec.shape, dtype=np.float32)
    return rng.integers(0, 256, spec.shape, dtype=spec.dtype)


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

    def __init__(self, case: Case) -> None:
        self.case = case

    def __len__(self) -> int:
        return self.case.num_items

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        arrays = pool_of(self.case)[index % POOL_SIZE]
        return {key: torch.from_numpy(array) for key, array in arrays.items()}


def as_it_is(microbatch: Any) -> Any:
    """The collate function of every loader: the microbatch is ready, nothing is to be done to it.

    (DataLoader's default would walk it and convert arrays, in every loader of the comparison.)
    """
    return microbatch


def in_process_loader(case: Case) -> DataLoader[dict[str, torch.Tensor]]:
    """The source that every loader of the comparison runs: no worker, no collation."""
    return DataLoader(PoolDataset(case), batch_size=None, collate_fn=as_it_is)
