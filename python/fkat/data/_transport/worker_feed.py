"""A feed from the workers that a ``DataLoader`` asks for: producers that take turns.

The first builds the loader and says how many there are to be; microbatch number k of an epoch is
that of worker k modulo their number, as `DataLoader` deals them.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import torch

from fkat.data._source.note import Described, Produced
from fkat.data._transport.feed import LoaderStats
from fkat.data._transport.producer_feed import ProducerFeed, RingOptions
from fkat.data._transport.work import LoaderWork


class WorkerFeed:
    """Delivers microbatches in order, each from the worker whose turn it is.

    Args:
        work: Of all workers.
        options: Of all rings together.
        device: Where microbatches go; None for host memory.
    """

    def __init__(self, work: LoaderWork, options: RingOptions, device: torch.device | None) -> None:
        self._work = work
        self._options = options
        self._feeds = [ProducerFeed(work.of_worker(0), options, device)]
        self._whose_turn = 0
        self._epoch = 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the producers, by number."""
        return [feed.pid for feed in self._feeds]

    def begin_pass(self, epoch: int, start: int = 0) -> None:
        self._epoch = epoch
        for feed in self._feeds:
            feed.begin_pass(epoch, start)

    def next(self, device: torch.device | None, number: int) -> Produced:
        self._whose_turn = number % len(self._feeds)
        produced = self._feeds[self._whose_turn].next(device, number)
        if type(produced) is Described:
            self._open_up_to(produced.num_workers, device)
        return produced

    def replace(self, work: LoaderWork, goes_on: bool) -> None:
        # Only whose turn it is was asked, so only that one is known to be dead: the others run on.
        self._work = work
        self._feeds[self._whose_turn].replace(work.of_worker(self._whose_turn), goes_on)

    def length(self) -> int | None:
        self._whose_turn = 0
        return self._feeds[0].length()

    def stats(self) -> LoaderStats:
        return reduce(add, (feed.stats() for feed in self._feeds))

    def stop(self) -> None:
        for feed in self._feeds:
            feed.stop()

    def _open_up_to(self, num_workers: int, device: torch.device | None) -> None:
        if len(self._feeds) < num_workers:
            self._feeds[0].share(num_workers)
        while (number := len(self._feeds)) < num_workers:
            name = f"worker {number} of {num_workers}"
            feed = ProducerFeed(self._work.of_worker(number), self._options, device, name)
            feed.share(num_workers)
            feed.begin_pass(self._epoch)
            self._feeds.append(feed)
