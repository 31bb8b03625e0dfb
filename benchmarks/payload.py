"""Is what arrived what was sent? Every byte in the warm-up pass, a spot of each item after it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from benchmarks.cases import POOL_SIZE, Case, pool_of


class WrongPayloadError(Exception):
    """A microbatch arrived with other bytes than were sent: its loader's timing means nothing."""


def compare_all(case: Case, index: int, item: Mapping[str, torch.Tensor]) -> None:
    """Compare keys, dtypes, shapes and every byte of microbatch ``index``."""
    expected = pool_of(case)[index % POOL_SIZE]
    if list(item) != list(expected):
        raise WrongPayloadError(f"microbatch {index}: keys {list(item)}, not {list(expected)}")
    for key, array in expected.items():
        want = torch.from_numpy(array)
        got = item[key]
        if got.dtype != want.dtype or not torch.equal(got, want):
            raise WrongPayloadError(f"microbatch {index}: {key!r} differs from what was sent")


class SpotCheck:
    """First and last element of one array of each item, another array each time.

    Everything expected is worked out beforehand: a check costs about a microsecond, and the same
    for every loader.
    """

    def __init__(self, case: Case) -> None:
        self._spots = [
            [(key, array.item(0), array.item(array.size - 1)) for key, array in arrays.items()]
            for arrays in pool_of(case)
        ]
        self._last = {key: array.size - 1 for key, array in pool_of(case)[0].items()}

    def __call__(self, index: int, item: Mapping[str, torch.Tensor]) -> None:
        """Raise WrongPayloadError unless the spot of microbatch ``index`` is as it was sent."""
        spots = self._spots[index % POOL_SIZE]
        key, first, last = spots[index % len(spots)]
        array = item[key].numpy()
        if array.item(0) != first or array.item(self._last[key]) != last:
            raise WrongPayloadError(f"microbatch {index}: {key!r} differs from what was sent")
