"""A loader of a mixture, and where it stands.

In the mixture's state each has a record: ``count``, what it has delivered in its pass; ``is_over``,
whether that pass has ended; ``state``, its own, if it has one; and ``is_before``, whether all that
is of the pass before, since in the present one it has delivered nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from fkat.data import _state as state
from fkat.data.errors import StateError

Record = dict[str, Any]


class Child(ABC):
    """A loader and its place in the present pass. Iterates the microbatches of that pass.

    Args:
        name: Its name in the mixture.
        loader: The user's.
    """

    kind: state.Kind  # of the record's state

    def __init__(self, name: str, loader: Any) -> None:
        self.name = name
        self.loader = loader
        self._microbatches: Iterator[Any] | None = None
        self._count = 0
        self._is_over = False
        self._goes_on = False  # the pass to begin is one that was loaded in its middle
        self._captured: Callable[[], Record] | None = None  # until it moves
        self._fetched: deque[Any] = deque()  # what was read and not taken; never more than one

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Its next microbatch: the same one until that is taken."""
        assert self._microbatches is not None
        if not self._fetched:
            self._fetch(self._microbatches)
        if not self._fetched:
            self._is_over = True
            self._captured = None
            raise StopIteration
        return self._fetched[0]

    def take(self) -> None:
        """Its microbatch is about to be delivered."""
        # No call between these: an interrupt finds all of them done, or none.
        self._count += 1
        self._captured = None
        del self._fetched[0]

    def restart(self, epoch: int) -> None:
        """Get ready for the first microbatch of ``epoch``."""
        del epoch
        self._count = 0
        self._is_over = False
        self._goes_on = False
        self._captured = None
        self._fetched.clear()

    def prepare(self) -> None:
        """Have the first microbatches made ahead, if the loader can do so without being read."""
        return

    def stop(self) -> None:
        """Let go of what it iterates: workers end with it."""
        self._microbatches = None

    def begin(self, epoch: int) -> bool:
        """Begin the pass of ``epoch`` (or go on in it); False if it is over already."""
        self._captured = None
        if self._goes_on and self._is_over:
            return False
        try:
            self._microbatches = self._begin(epoch)
        except StopIteration as error:  # it would end the mixture's epoch silently
            raise RuntimeError(f"iter() of loader {self.name!r} raised StopIteration") from error
        if not self._goes_on:
            self._count = 0
        self._goes_on = self._is_over = False
        return True

    def capture(self, epoch: int, leaves: bool) -> Callable[[], Record]:
        """Its record now, to be made later; with ``leaves`` that of the epoch after ``epoch``."""
        if leaves:
            return self._capture(epoch, leaves)
        if self._captured is None:
            self._captured = self._capture(epoch, leaves)
        return self._captured

    def check(self, record: Any) -> None:
        """Refuse what is no record of this child.

        Raises:
            StateError: Says what is wrong.
        """
        kind = f"loader {self.name!r} in a DictDataLoader"
        if not isinstance(record, dict):
            raise StateError(f"a state of {kind} is a dict, got a {type(record).__name__}")
        state.check_keys(record, kind, _keys(self.kind))
        if record["count"] < 0:
            raise StateError(f"'count' in this state of {kind} is {record['count']}")

    def load(self, record: Record, epoch: int, strict: bool) -> None:
        """Stand where the record says, in the pass of ``epoch`` or before it."""
        self.restart(epoch)
        self._microbatches = None
        self._goes_on = not record["is_before"]
        self._count = record["count"]
        self._is_over = record["is_over"]
        self._load(record, epoch, strict)

    def left(self, record: Record) -> Record:
        """The record at the beginning of the epoch that follows."""
        return {**record, "count": 0, "is_over": False}

    def is_finished(self, record: Record) -> bool:
        """Whether the record is that of a pass that has nothing more to give."""
        if record["is_over"]:
            return True
        try:
            return bool(record["count"] >= len(self.loader))
        except (TypeError, NotImplementedError):
            return False

    def _fetch(self, microbatches: Iterator[Any]) -> None:
        # One call from next() to here: an interrupt finds the microbatch here, or in the loader.
        self._fetched.extend(map(next, (microbatches,)))

    @abstractmethod
    def _begin(self, epoch: int) -> Iterator[Any]: ...

    @abstractmethod
    def _capture(self, epoch: int, leaves: bool) -> Callable[[], Record]: ...

    def _load(self, record: Record, epoch: int, strict: bool) -> None:
        return


def _keys(kind: state.Kind) -> dict[str, state.Kind]:
    return {"count": int, "is_over": bool, "is_before": bool, "state": kind}
