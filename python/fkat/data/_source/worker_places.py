"""How far each worker of a loader has got, where one number does not say it.

It does where microbatch k is that of worker k modulo their number, delivered in order. Workers that
have streams of their own come to their ends one by one; and delivered as they are ready, one may be
far ahead of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fkat.data._source.fingerprint import MAX_OFFSET
from fkat.data._source.note import WorkerPlace
from fkat.data._source.stateful import from_checkpoint, to_checkpoint

_ENTRY = "[number of microbatches, whether it has ended, digest, state or None]"


def dealt(count: int, num_workers: int) -> tuple[WorkerPlace, ...]:
    """Where they stand after ``count`` microbatches in turn, when none has come to its end."""
    return tuple(
        WorkerPlace((count - number + num_workers - 1) // num_workers)
        for number in range(num_workers)
    )


def to_list(places: Sequence[WorkerPlace]) -> list[list[Any]] | None:
    """As plain types; None if there are none."""
    return [[*place[:3], to_checkpoint(place.inner)] for place in places] or None


def from_list(entries: Any, total: int) -> tuple[WorkerPlace, ...]:
    """What `to_list` gave.

    Args:
        entries: Of a checkpoint.
        total: Microbatches of all workers together.

    Raises:
        ValueError: It is something else.
        StateError: A worker's own state is damaged, or holds something that is not plain.
    """
    if entries is None:
        return ()
    places = []
    for entry in entries:
        if type(entry) is not list or len(entry) != 4:
            raise ValueError(f"{entry!r} is not {_ENTRY}")
        count, has_ended, digest, inner = entry
        if (
            type(count) is not int
            or type(has_ended) is not bool
            or type(digest) is not int
            or not (0 <= count <= MAX_OFFSET and 0 <= digest < 2**32)
            or not isinstance(inner, bytes | None)
        ):
            raise ValueError(f"{entry!r} is not {_ENTRY}")
        places.append(WorkerPlace(count, has_ended, digest, from_checkpoint(inner)))
    if not places or sum(place.num_delivered for place in places) != total:
        counts = [place.num_delivered for place in places]
        raise ValueError(f"workers had {counts} microbatches, {total} in all")
    return tuple(places)
