"""A feed without a producer process: the same microbatches, made in the calling thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from fkat.data._codec import move
from fkat.data._feed import LoaderStats
from fkat.data._producer import Work
from fkat.data._seeding import preserved_rng
from fkat.data._source import Source


class LocalFeed:
    """Runs the user's code right here, so that a breakpoint in ``__getitem__`` works.

    Seeds as the producer process does, and gives the trainer's random generators back afterwards.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._source: Source | None = None
        self._microbatches: Iterator[Any] = iter(())
        self._stats = LoaderStats()

    def begin_pass(self, epoch: int) -> None:
        with preserved_rng():
            self._microbatches = self._built_source().iterate(epoch, start=0)

    def next_microbatch(self, device: torch.device | None) -> Any:
        begin = time.perf_counter()
        with preserved_rng():
            microbatch = next(self._microbatches)
        if device is not None:
            microbatch = move(microbatch, device)
        self._stats = replace(
            self._stats,
            num_microbatches=self._stats.num_microbatches + 1,
            stall_s=self._stats.stall_s + time.perf_counter() - begin,
        )
        return microbatch

    def length(self) -> int | None:
        with preserved_rng():
            source = self._built_source()
        try:
            return len(source)
        except TypeError:
            return None

    def stats(self) -> LoaderStats:
        return self._stats

    def stop(self) -> None:
        self._microbatches = iter(())
        self._source = None

    def _built_source(self) -> Source:
        if self._source is None:
            self._source = Source(self._work.factory, self._work.seeder)
        return self._source
