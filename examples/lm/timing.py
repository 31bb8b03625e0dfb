"""Where a training step's time goes, measured the same way whatever the loader."""

from __future__ import annotations

import time
from statistics import fmean
from typing import Any

import lightning as L  # noqa: N812

NUM_WARMUP = 40
"""Microbatches left out: the first ones start processes and fill caches and queues."""


class WaitTimer(L.Callback):
    """Splits the run into waiting for data and everything else.

    Waiting is all that happens between the end of one microbatch's work and the start of the
    next's: Lightning's fetch, and in it the loader's ``__next__``. Put this callback last, behind
    the progress bar, so that drawing is not counted as waiting.
    """

    def __init__(self) -> None:
        self.waits_s: list[float] = []
        self._ends_s: list[float] = []

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """The microbatch is there."""
        if self._ends_s:
            self.waits_s.append(time.perf_counter() - self._ends_s[-1])

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """The work is done; the wait for the next microbatch begins."""
        self._ends_s.append(time.perf_counter())

    @property
    def microbatches_per_s(self) -> float:
        """Rate after the warm-up."""
        ends_s = self._ends_s[NUM_WARMUP - 1 :]
        return (len(ends_s) - 1) / (ends_s[-1] - ends_s[0])

    @property
    def mean_wait_s(self) -> float:
        """Mean wait for one microbatch, after the warm-up."""
        return fmean(self.waits_s[NUM_WARMUP - 1 :])

    @property
    def wait_share(self) -> float:
        """Share of all time that was spent waiting for data, 0 to 1."""
        return self.mean_wait_s * self.microbatches_per_s
