"""A feed from the workers that a ``DataLoader`` asks for: producers that take turns.

The first builds the loader and says how many there are to be, unless that is known before;
microbatch number k of an epoch is that of worker k modulo their number, as `DataLoader` deals them.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import torch

from fkat.data._source.note import Delivered, Described, Mark, Produced
from fkat.data._transport.feed import LoaderStats, stop_all
from fkat.data._transport.producer_feed import ProducerFeed, RingOptions
from fkat.data._transport.work import LoaderWork


class WorkerFeed:
    """Delivers microbatches in order, each from the worker whose turn it is.

    Args:
        work: Of all workers.
        options: Of all rings together.
        device: Where microbatches go; None for host memory.
        num_workers: How many there are to be, so that all start at once; 0 if that is not known.
    """

    def __init__(
        self,
        work: LoaderWork,
        options: RingOptions,
        device: torch.device | None,
        num_workers: int = 0,
    ) -> None:
        self._work = work
        self._options = options
        self._device = device
        self._feeds = [ProducerFeed(work.of_worker(0), options, device)]
        self._num_workers = num_workers
        self._whose_turn = 0
        self._epoch = 0
        self._digest: int | None = None  # of all indices up to the microbatch delivered last

    @property
    def pids(self) -> list[int]:
        """Process ids of the producers, by number."""
        return [feed.pid for feed in self._feeds]

    def begin_pass(self, epoch: int, start: int = 0) -> None:
        self._epoch = epoch
        self._digest = None
        for feed in self._feeds:
            feed.begin_pass(epoch, start)
        self._open_missing(self._device)

    def next(self, device: torch.device | None, number: int) -> Produced:
        self._open_missing(device)  # of which an interrupt has kept us
        self._whose_turn = number % len(self._feeds)
        produced = self._feeds[self._whose_turn].next(device, number)
        if type(produced) is Described:
            self._agree_on(produced.num_workers)
            self._open_missing(device)
        elif not self._num_workers:  # how many there are was lost to an interrupt: from the start
            self.begin_pass(self._epoch)
            return self.next(device, number)
        elif type(produced) is Delivered:
            self._check_order(produced.mark, number)
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

    def tell_to_stop(self) -> None:
        for feed in self._feeds:
            feed.tell_to_stop()

    def stop(self) -> None:
        stop_all(self._feeds)

    def _agree_on(self, num_workers: int) -> None:
        if len(self._feeds) > 1 and num_workers != self._num_workers:
            raise RuntimeError(
                f"dataloader_factory returned a DataLoader with num_workers={num_workers} in "
                f"producer {self._whose_turn}, and with num_workers={self._num_workers} in the "
                "first: each producer calls it, and it must return the same each time"
            )
        self._num_workers = num_workers

    def _check_order(self, mark: Mark, number: int) -> None:
        before, self._digest = self._digest, mark.digest
        if before is not None and before != mark.before:
            raise RuntimeError(
                f"worker {self._whose_turn} of {self._num_workers} drew other indices before "
                f"microbatch {number} of epoch {self._epoch} than the worker before it: each draws "
                "them all, so the sampler must draw the same in every process and after every "
                "restart. Derive its order from a fixed seed and set_epoch(), or use num_workers=0"
            )

    def _open_missing(self, device: torch.device | None) -> None:
        while (number := len(self._feeds)) < self._num_workers:
            self._feeds[0].share(self._num_workers)
            name = f"worker {number} of {self._num_workers}"
            feed = ProducerFeed(self._work.of_worker(number), self._options, device, name)
            feed.share(self._num_workers)
            feed.begin_pass(self._epoch)
            self._feeds.append(feed)
