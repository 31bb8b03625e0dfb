"""A feed from the workers that a ``DataLoader`` asks for: producers with a ring each.

The first builds the loader and says how many there are to be and how they take turns, unless that
is known before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import reduce
from operator import add

import torch

from fkat.data._source.note import Dealing, Described, Marked, Taken
from fkat.data._source.worker_places import dealt
from fkat.data._transport import interruption
from fkat.data._transport.feed import LoaderStats, stop_all
from fkat.data._transport.producer_feed import ProducerFeed, RingOptions
from fkat.data._transport.turns import ByCount, ByNumber, Turns
from fkat.data._transport.work import LoaderWork


class WorkerFeed:
    """Delivers microbatches, each from the worker whose turn it is.

    Args:
        work: Of all workers.
        options: Of all rings together.
        device: Where microbatches go; None for host memory.
        dealing: How many there are to be, so that all start at once; None if that is not known.
    """

    def __init__(
        self,
        work: LoaderWork,
        options: RingOptions,
        device: torch.device | None,
        dealing: Dealing | None = None,
    ) -> None:
        self._work = work
        self._options = options
        self._device = device
        self._feeds = [ProducerFeed(work.of_worker(0), options, device)]
        self._dealing = dealing
        self._turns: Turns | None = None  # while that is not known
        self._whose_turn = 0
        self._uncounted: Marked | None = None  # an interrupt finds it here
        self._epoch = 0

    @property
    def pids(self) -> list[int]:
        """Process ids of the producers, by number."""
        return [feed.pid for feed in self._feeds]

    def begin_pass(self, epoch: int, start: int = 0) -> None:
        self._epoch = epoch
        self._uncounted = None
        self._turns = None if self._dealing is None else self._turns_of(self._dealing)
        for feed in self._feeds:
            feed.begin_pass(epoch, start)
        self._open_missing(self._device)

    def next(self, device: torch.device | None, number: int) -> Taken:
        if self._dealing is None or len(self._feeds) != self._dealing.num_workers:
            self._open_missing(device)
        while True:
            turns, uncounted = self._turns, self._uncounted
            if turns is not None and uncounted is not None:
                taken = turns.take(self._whose_turn, number, uncounted)
                self._uncounted = None
                return taken
            workers = (0,) if turns is None else turns.waited_for(number)
            if not workers:
                raise StopIteration
            self._whose_turn = workers[0]
            try:
                if len(workers) == 1:
                    read = self._feeds[self._whose_turn].next(device, number)
                else:
                    read = self._first_ready(tuple(workers), device, number)
            except StopIteration:
                if turns is None or turns.end(self._whose_turn):
                    raise
                continue
            # No call before it is kept, or returned: an interrupt would lose it.
            if read[1] is not None and turns is not None:
                self._uncounted = read
                continue
            match read[0]:
                case Described(dealing=dealing):
                    self._agree_on(dealing)  # the next call opens who is missing
                    return read
                case _ if turns is None:
                    # How many there are was lost to an interrupt: from the start.
                    self.begin_pass(self._epoch)
                case _:
                    return read

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

    def _first_ready(
        self, workers: Sequence[int], device: torch.device | None, number: int
    ) -> Taken:
        """What the first of these that has something delivers."""
        feeds = [self._feeds[worker] for worker in workers]
        patience_s, begin = feeds[0].patience_s, time.monotonic()
        dead = None
        while True:
            for worker, feed in zip(workers, feeds, strict=True):
                self._whose_turn = worker
                if (taken := feed.next_within(0, device, number)) is not None:
                    return taken
            if dead is not None:
                self._whose_turn = workers[dead]
                return feeds[dead].next(device, number)
            interruption.ask()
            if time.monotonic() - begin >= patience_s:
                reports = [feed.report() for feed in feeds]
                feeds[0].tell_stall("microbatch", "\n".join(reports))
                patience_s = math.inf  # told once
            left_s = patience_s - (time.monotonic() - begin)
            dead = ProducerFeed.wait_any(feeds, min(interruption.ASKED_EVERY_S, left_s))

    def _agree_on(self, dealing: Dealing) -> None:
        if self._dealing is not None and dealing != self._dealing:
            pairs = list(zip(_described(dealing), _described(self._dealing), strict=True))
            here = " and ".join(here for here, there in pairs if here != there)
            there = " and ".join(there for here, there in pairs if here != there)
            raise RuntimeError(
                f"dataloader_factory returned a DataLoader with {here} in producer "
                f"{self._whose_turn}, and with {there} in the first: each producer calls it, and "
                "it must return the same each time"
            )
        if self._dealing is None:
            self._dealing = dealing
            self._turns = self._turns_of(dealing)

    def _turns_of(self, dealing: Dealing) -> Turns:
        resume = self._work.resume
        if resume is not None and resume.epoch == self._epoch:
            places, count = resume.start.workers, resume.num_finished
        else:
            places, count = (), 0
        if len(places) != dealing.num_workers:
            places = ()  # each producer objects to that
        if not dealing.counts_each and not places:
            return ByNumber(dealing.num_workers, self._epoch)
        places = places or dealt(count, dealing.num_workers)
        return ByCount(places, dealing, self._epoch)

    def _open_missing(self, device: torch.device | None) -> None:
        num_workers = 0 if self._dealing is None else self._dealing.num_workers
        while (number := len(self._feeds)) < num_workers:
            self._feeds[0].share(num_workers)
            name = f"worker {number} of {num_workers}"
            feed = ProducerFeed(self._work.of_worker(number), self._options, device, name)
            feed.share(num_workers)
            feed.begin_pass(self._epoch)
            self._feeds.append(feed)


def _described(dealing: Dealing) -> tuple[str, ...]:
    kind = "a map-style dataset" if dealing.is_by_number else "an iterable dataset"
    return f"num_workers={dealing.num_workers}", kind, f"in_order={dealing.in_order}"
