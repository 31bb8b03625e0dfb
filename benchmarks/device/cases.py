"""What `benchmarks.device` carries to the GPU, and the training steps that it is carried for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.sources.ready import (
    POOL_SIZE,
    TWENTY,
    Case,
    PoolDataset,
    TensorSpec,
    as_it_is,
    pool_of,
)

COPY_SIZES = tuple(1024 * kib for kib in (64, 256, 1024, 4096, 16384, 65536, 262144))
"""Microbatches whose copy is measured, in bytes."""

MANY_SMALL = TWENTY
"""20 tensors of 16 KiB: what a microbatch costs the trainer's thread shows best in small ones."""

SHARD_LENGTH = 4
"""Microbatches of a shard: as many as are prefetched, so that all producers work at once."""

MATRIX_SIZE = 2048
"""Of the bfloat16 products that a step computes: some ten microseconds each, to dose them by."""


@dataclass(frozen=True)
class Step:
    """A training step: how much it computes, in copies of its microbatch, and who feeds it."""

    name: str
    title: str
    num_workers: int
    compute_per_copy: float


STEPS = {
    step.name: step
    for step in (
        Step("copy-heavy", "compute as long as the copy, 4 workers", 4, 1.0),
        Step("compute-heavy", "compute twice as long as the copy, 4 workers", 4, 2.0),
        # One process copies host memory several times slower than the GPU fetches it: to be hidden,
        # its work needs a longer step.
        Step("one-worker", "compute eight times as long as the copy, 1 worker", 1, 8.0),
    )
}


def copy_case(nbytes: int) -> Case:
    """A microbatch of one tensor."""
    spec = TensorSpec("x", "float32", (nbytes // 4,))
    return Case(f"1 tensor of {nbytes} bytes", (spec,))


def step_case(nbytes: int = 64 << 20) -> Case:
    """The microbatch of every training step: two equal tensors."""
    specs = tuple(TensorSpec(key, "float32", (8, nbytes // 64)) for key in ("x", "y"))
    return Case(f"2 tensors, {nbytes} bytes in all", specs)


class Numbered(Dataset[dict[str, torch.Tensor]]):
    """Item ``i`` is pool entry ``i % 3`` in tensors of their own, and its number."""

    def __init__(self, case: Case, first: int, count: int) -> None:
        self._pool = PoolDataset(case)
        self._first = first
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number = self._first + index
        return {**self._pool[number], "number": torch.tensor(number)}


def in_process(case: Case, first: int, count: int) -> DataLoader[dict[str, torch.Tensor]]:
    """The source of every loader: no worker, no collation."""
    return DataLoader(Numbered(case, first, count), batch_size=None, collate_fn=as_it_is)


def shards_of(count: int) -> list[str]:
    """Names that `open_shard` knows, for so many microbatches; a multiple of `SHARD_LENGTH`."""
    return [str(first) for first in range(0, count, SHARD_LENGTH)]


def open_shard(case: Case, shard: str) -> DataLoader[dict[str, torch.Tensor]]:
    """A short stretch of the same source."""
    return in_process(case, int(shard), SHARD_LENGTH)


class PoolOnDevice:
    """The same bytes, resident on the GPU: to compute on without a loader, and to compare with."""

    def __init__(self, case: Case, device: torch.device) -> None:
        move = partial(torch.Tensor.to, device=device)
        self.entries = [
            {key: move(torch.from_numpy(array)) for key, array in arrays.items()}
            for arrays in pool_of(case)
        ]
        self.device = device


class SpotCheck:
    """Counts on the device what did not arrive as it was sent; the host asks once, at the end.

    A microbatch is compared in its number and in 64 elements of each tensor, spread over it.
    """

    NUM_SPOTS = 64

    def __init__(self, pool: PoolOnDevice) -> None:
        first = pool.entries[0]
        self._spots = {key: self._spread(tensor) for key, tensor in first.items()}
        self._expected = {
            key: torch.stack([entry[key].flatten()[spots] for entry in pool.entries])
            for key, spots in self._spots.items()
        }
        self._wrong = torch.zeros((), dtype=torch.int64, device=pool.device)

    def _spread(self, tensor: torch.Tensor) -> torch.Tensor:
        last = tensor.numel() - 1
        return torch.linspace(0, last, self.NUM_SPOTS, dtype=torch.float64).long().to(tensor.device)

    def __call__(self, number: int, microbatch: dict[str, torch.Tensor]) -> None:
        """Queue the comparison with microbatch ``number``."""
        self._wrong += microbatch["number"].ne(number)
        for key, spots in self._spots.items():
            found = microbatch[key].flatten()[spots]
            self._wrong += found.ne(self._expected[key][number % POOL_SIZE]).sum()

    def num_wrong(self) -> int:
        """What was found wrong so far; waits for the device."""
        return int(self._wrong)
