"""Is what arrived what was sent? Every byte in the warm-up, a spot of each item after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.harness.question import WrongPayloadError
from benchmarks.sources.ready import POOL_SIZE, Case, pool_of


def _array(value: Any) -> np.ndarray:
    """A loader's tensor, or the array of one that carries numpy arrays only."""
    array: np.ndarray = value.numpy() if isinstance(value, torch.Tensor) else value
    return array


def compare_all(case: Case, index: int, item: Mapping[str, Any]) -> None:
    """Compare keys, dtypes, shapes and every byte of microbatch ``index``."""
    expected = pool_of(case)[index % POOL_SIZE]
    if list(item) != list(expected):
        raise WrongPayloadError(f"microbatch {index}: keys {list(item)}, not {list(expected)}")
    for key, want in expected.items():
        got = _array(item[key])
        if got.dtype != want.dtype or not np.array_equal(got, want):
            raise WrongPayloadError(f"microbatch {index}: {key!r} differs from what was sent")


class SpotCheck:
    """First and last element of one array of each item, another array each time.

    Everything expected is worked out beforehand: a check costs about a microsecond in a fast loop,
    and the same for every loader.
    """

    def __init__(self, case: Case) -> None:
        self._spots = [
            [(key, array.item(0), array.item(array.size - 1)) for key, array in arrays.items()]
            for arrays in pool_of(case)
        ]
        self._last = {key: array.size - 1 for key, array in pool_of(case)[0].items()}

    def __call__(self, index: int, item: Mapping[str, Any]) -> None:
        """Raise WrongPayloadError unless the spot of microbatch ``index`` is as it was sent."""
        spots = self._spots[index % POOL_SIZE]
        key, first, last = spots[index % len(spots)]
        array = _array(item[key])
        if array.item(0) != first or array.item(self._last[key]) != last:
            raise WrongPayloadError(f"microbatch {index}: {key!r} differs from what was sent")
