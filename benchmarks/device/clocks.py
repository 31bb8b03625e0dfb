"""What a stretch of work takes the GPU."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from benchmarks.device.cases import MATRIX_SIZE

NUM_BUFFERS = 4
"""Pinned buffers that the reference copy takes turns with, as a loader's slots."""


class Matmuls:
    """Matrix products on the current stream: the compute of a training step."""

    def __init__(self, device: torch.device) -> None:
        shape = (MATRIX_SIZE, MATRIX_SIZE)
        self._left = torch.randn(shape, device=device, dtype=torch.bfloat16)
        self._out = torch.empty_like(self._left)

    def __call__(self, count: int) -> None:
        """Queue so many."""
        for _ in range(count):
            torch.mm(self._left, self._left, out=self._out)


def timing_event() -> torch.cuda.Event:
    """An event that others can be timed against."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def elapsed_ms(work: Callable[[], object], repeats: int = 20) -> float:
    """Median milliseconds on the GPU between what was queued before ``work`` and behind it."""
    for _ in range(3):
        work()
    taken: list[float] = []
    for _ in range(repeats):
        begin, end = timing_event(), timing_event()
        begin.record()
        work()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end))
    return median(taken)


class PinnedCopies:
    """The best copy there is: from torch's own pinned memory into memory that is there already."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self._sources = [
            torch.ones(nbytes, dtype=torch.uint8).pin_memory() for _ in range(NUM_BUFFERS)
        ]
        self._target = torch.empty(nbytes, dtype=torch.uint8, device=device)

    def __call__(self, count: int) -> None:
        """Queue so many, one behind the other."""
        for i in range(count):
            self._target.copy_(self._sources[i % NUM_BUFFERS], non_blocking=True)


def copy_ms(nbytes: int, device: torch.device) -> float:
    """Milliseconds of one of many such copies in a row."""
    copies = PinnedCopies(nbytes, device)
    return elapsed_ms(lambda: copies(10)) / 10
