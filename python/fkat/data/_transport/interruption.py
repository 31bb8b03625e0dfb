"""What may end a wait for a microbatch besides the microbatch: asked while ``next()`` waits.

Python runs signal handlers in such a wait, and what they raise ends it. A handler that only takes
note, such as Lightning's for SIGTERM, would be heeded when the microbatch is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ASKED_EVERY_S = 0.05

_check: ContextVar[Callable[[], None] | None] = ContextVar("fkat.data interruption", default=None)


@contextmanager
def asking(check: Callable[[], None]) -> Iterator[None]:
    """Let ``check`` raise what ends a wait of this thread. Nothing is lost by it."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


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
