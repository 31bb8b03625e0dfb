"""The feed of a loader: opened when it is needed, and in which pass it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

from fkat.data._place import Place
from fkat.data._transport.feed import Feed, LoaderStats, ProcessFeed
from fkat.data._transport.work import Work


class CurrentFeed:
    """Holds a loader's feed, from the first need of it until it is stopped; then another.

    Args:
        has_processes: Whether the feed reads from other processes.
    """

    def __init__(self, has_processes: bool) -> None:
        self._has_processes = has_processes
        self.feed: Feed | None = None
        self._pid = 0  # of the process that opened it
        self._begins: set[Place | None] = set()  # where its producers begin, the dead too
        self._epoch: int | None = None  # of the pass that it was asked for; None: for the next one

    def in_pass(self, epoch: int) -> Feed | None:
        """The feed, if it is in the pass of ``epoch`` already and this process's own."""
        return self.feed if self._epoch == epoch and self._pid == os.getpid() else None

    def enter(
        self,
        epoch: int,
        open_feed: Callable[[Place | None], Feed],
        begin: Callable[[], Place | None],
    ) -> Feed:
        """The feed, in the pass of ``epoch``: opened, and that begun, where it is not.

        Args:
            epoch: Begun only if the feed is not in its pass already.
            open_feed: Called if there is no feed, with what ``begin`` returns.
            begin: Says where its producers are to begin; None for the beginning of whichever epoch
                they are asked for.
        """
        if self._pid != os.getpid():
            self.check_process()
        if self.feed is None:
            place = begin()
            self._pid = os.getpid()
            self._begins = {place}
            self.feed = open_feed(place)
        if self._epoch != epoch:
            self.feed.begin_pass(epoch)
            self._epoch = epoch
        return self.feed

    def leave(self) -> None:
        """Whatever pass comes next is begun, be it one of the same epoch."""
        self._epoch = None

    def can_begin(self, epoch: int, begin: Place | None) -> bool:
        """Whether every producer would begin ``epoch`` at ``begin`` (None: at its beginning).

        Not so where one took over from a dead one in its middle.
        """
        of_epoch = (b if b is not None and b.epoch == epoch else None for b in self._begins)
        return all(b == begin for b in of_epoch)

    def replace(self, work: Work, begin: Place | None, goes_on: bool) -> None:
        """Start another producer in place of the dead one; see `ProcessFeed.replace`."""
        if self.feed is not None:
            self._begins.add(begin)
            cast(ProcessFeed, self.feed).replace(work, goes_on)

    def stats(self) -> LoaderStats:
        """What was delivered by the feed that is open."""
        self.check_process()
        return LoaderStats() if self.feed is None else self.feed.stats()

    def stop(self) -> None:
        """Give everything back. May be called more than once."""
        self._epoch = None
        self._begins = set()
        feed, self.feed = self.feed, None
        if feed is not None:
            feed.stop()

    def check_process(self) -> None:
        """Refuse to read in a forked child: a ring has one reader, and a lock that may be taken."""
        if self._has_processes and self.feed is not None and self._pid != os.getpid():
            raise RuntimeError(
                f"this loader belongs to process {self._pid}, this is a child that it forked "
                f"(process {os.getpid()}): make a loader of its own here, or start one by "
                "teardown() or load_state_dict(). What was delivered may be read here"
            )
