"""What may end a wait for a microbatch besides the microbatch: asked while ``next()`` waits.

Python runs signal handlers in such a wait, and what they raise ends it. A handler that only takes
note, such as Lightning's for SIGTERM, would be heeded when the microbatch is there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

ASKED_EVERY_S = 0.5  # as long as the slices of a wait for one ring: see csrc/bindings/wait.h

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
        del self._token  # can be neither copied nor pickled


def ask() -> None:
    """Let the check of this thread end the wait, if it has one."""
    if (check := _check.get()) is not None:
        check()
