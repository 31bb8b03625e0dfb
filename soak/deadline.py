"""When a soak ends."""

from __future__ import annotations

import math
import signal
import time


class Deadline:
    """A moment, which Ctrl-C makes come at once. It takes SIGINT for the rest of the process.

    Ctrl-C interrupts nothing then: the soak ends between two turns, looks for leaks, and prints its
    counts. A second one is a KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._end = math.inf
        self.was_cut = False
        signal.signal(signal.SIGINT, self._cut)

    def be_in(self, seconds: float) -> None:
        """So long from now."""
        self._end = time.monotonic() + seconds

    def has_come(self) -> bool:
        """Whether it is over."""
        return self.was_cut or time.monotonic() > self._end

    def _cut(self, *_: object) -> None:
        self.was_cut = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
