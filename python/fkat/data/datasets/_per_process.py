"""What one process must not hand to another."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A value made when first asked for, anew in every process.

    Open files, filesystems' clients and locks do not survive a fork, and cannot be pickled.

    Args:
        make: Makes it. Must be picklable if this is to be.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        # By process id. A forked process leaves what it inherited untouched: to close a remote
        # file would wait for threads of the parent.
        self._values: dict[int, T] = {}

    def get(self) -> T:
        """The value of this process."""
        pid = os.getpid()
        if pid not in self._values:
            self._values[pid] = self._make()
        return self._values[pid]

    def __getstate__(self) -> dict[str, Any]:
        """Only how to make it."""
        return {"_make": self._make, "_values": {}}
