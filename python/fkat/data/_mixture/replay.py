"""Getting to the middle of an epoch of a loader that can only be iterated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from fkat.data.errors import ResumeMismatchError

_PATIENCE_S = 1.0  # of a replay, before its progress is shown
_END = object()


def replay(microbatches: Iterator[Any], count: int, name: str) -> None:
    """Read ``count`` microbatches and drop them; shows its progress after a second.

    Raises:
        ResumeMismatchError: There are fewer.
    """
    warnings.warn(
        f"{count} microbatches of loader {name!r} are read again to get to where the run stopped, "
        "since it keeps no state; if it shuffles, they must come in the same order. To begin there "
        "at once, put it into a ShmDataLoader, or use torchdata's StatefulDataLoader",
        stacklevel=2,
    )
    for done in tqdm(range(count), f"replaying {name!r}", unit=" microbatches", delay=_PATIENCE_S):
        if next(microbatches, _END) is _END:
            raise ResumeMismatchError(
                f"loader {name!r} had delivered {count} microbatches when the state was saved, now "
                f"it ends after {done}: is its data the same, and does each iter() begin anew?"
            )
