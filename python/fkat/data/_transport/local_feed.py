"""A feed without a producer process: the same microbatches, made in the calling thread."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from fkat.data._device.cuda import check
from fkat.data._seeding import preserved_rng
from fkat.data._source.note import Delivered, Produced, Taken
from fkat.data._transport.feed import LoaderStats
from fkat.data._transport.reader import moved
from fkat.data._transport.work import PassSource, Work


class LocalFeed:
    """Runs the user's code right here, so that a breakpoint in ``__getitem__`` works.

    Seeds as the producer process does, and gives the trainer's random generators back afterwards.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._source: PassSource | None = None
        self._produced: Iterator[Produced] = iter(())
        self._epoch = 0
        self._held: Produced | None = None  # made, but there was no memory for it on the device
        self._checked: torch.device | None = None
        self._stats = LoaderStats()

    def begin_pass(self, epoch: int, start: int = 0) -> None:
        self._epoch = epoch
        self._held = None
        with preserved_rng():
            self._produced = self._built_source().iterate(epoch, start)

    def next(self, device: torch.device | None, number: int) -> Taken:
        if device is not None and device != self._checked:
            check(device)
            self._checked = device
        begin = time.perf_counter()
        if self._held is None:
            with preserved_rng():
                self._held = next(self._produced)
        produced = self._held
        taken: Taken = produced if isinstance(produced, Delivered) else (produced, None)
        if device is not None:
            taken = moved(taken, device)  # may lack memory: asked again, it tries again
        stats = self._stats
        if taken[1] is not None:
            stats += LoaderStats(num_microbatches=1, stall_s=time.perf_counter() - begin)
        # No call from here on: an interrupt would lose what was taken.
        self._stats = stats
        self._held = None
        return taken

    def length(self) -> int | None:
        with preserved_rng():
            return self._built_source().length(self._epoch)

    def stats(self) -> LoaderStats:
        return self._stats

    def tell_to_stop(self) -> None:
        self.stop()

    def stop(self) -> None:
        self._produced = iter(())
        self._held = None
        self._source = None

    def _built_source(self) -> PassSource:
        if self._source is None:
            self._source = self._work.open()
        return self._source
