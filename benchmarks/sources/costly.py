"""Items that take CPU time to make, so that making them again shows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import SupportsInt

import numpy as np
import torch
from torch.utils.data import Dataset

from benchmarks.harness.question import WrongPayloadError
from benchmarks.sources.ready import ENDLESS

WIDTH = 8
"""Numbers in an item."""


def compute_for(seconds: float) -> None:
    """Keep a core busy; counted in CPU time, so that two who share a core take twice as long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class CostlyItems(Dataset[dict[str, np.ndarray]]):
    """Item ``i`` is ``{"ids": [8 i, ..., 8 i + 7]}``, an int64 array.

    An array, because a small one travels cheaply with every loader; tensors would not.
    """

    def __init__(self, cost_s: float, num_items: int = ENDLESS) -> None:
        self._cost_s = cost_s
        self._num_items = num_items

    def __len__(self) -> int:
        return self._num_items

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        compute_for(self._cost_s)
        return {"ids": np.arange(WIDTH * index, WIDTH * index + WIDTH)}


class CostlyTensors(CostlyItems):
    """The same as tensors."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {"ids": torch.from_numpy(super().__getitem__(index)["ids"])}


class FreeLists(Dataset[dict[str, list[int]]]):
    """The same as lists, which cost nothing to make and little to carry."""

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"ids": list(range(WIDTH * index, WIDTH * index + WIDTH))}


def check_number(index: int, item: Mapping[str, Iterable[SupportsInt]]) -> None:
    """Raise WrongPayloadError unless it is item ``index``, whole."""
    found = [int(value) for value in item["ids"]]
    if found != list(range(WIDTH * index, WIDTH * index + WIDTH)):
        raise WrongPayloadError(f"microbatch {index} has the ids {found}")
