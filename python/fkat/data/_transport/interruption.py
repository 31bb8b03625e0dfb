"""What may end a wait for a microbatch besides the microbatch: asked while ``next()`` waits.

Python runs signal handlers in such a wait, and what they raise ends it. A handler that only takes
note, such as Lightning's for SIGTERM, would be heeded when the microbatch is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar

ASKED_EVERY_S = 0.05

_check: ContextVar[Callable[[], None] | None] = ContextVar("fkat.data interruption", default=None)


class asking:  # noqa: N801 (a context manager, as those of contextlib)
    """Let ``check`` raise what ends a wait of this thread. Nothing is lost by it.

    May be entered again and again, one time within another not.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def __enter__(self) -> None:
        self._token = _check.set(self._check)

    def __exit__(self, *_: object) -> None:
        _check.reset(self._token)


def ask() -> None:
    """Let the check of this thread end the wait, if it has one."""
    if (check := _check.get()) is not None:
        check()


def slices(timeout_s: float | None) -> Iterator[float | None]:
    """The parts of a wait: after each the check is asked. One, the whole, if nobody asks.

    The last one ends with the wait; without a timeout there is always another.
    """
    check = _check.get()
    left_s = timeout_s
    while check is not None and (left_s is None or left_s > ASKED_EVERY_S):
        yield ASKED_EVERY_S
        check()
        left_s = left_s and left_s - ASKED_EVERY_S
    yield left_s
