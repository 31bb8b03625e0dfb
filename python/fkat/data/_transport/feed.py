"""Where a loader gets its microbatches from: another process, or this thread."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from operator import add
from typing import Protocol

import torch

from fkat.data._source.note import Taken
from fkat.data._transport.work import Work


@dataclass(frozen=True)
class LoaderStats:
    """What a loader has delivered since its producer was started.

    Attributes:
        num_microbatches: Microbatches delivered.
        nbytes: Bytes delivered through shared memory (0 without a producer process).
        num_copies: Microbatches delivered as private copies, because too many were kept alive.
        stall_s: Seconds that ``next()`` waited for data.
        num_skipped_shards: Shards given up because of an error in them.
        num_restarts: Producers that took the place of a dead one.
        pinned_nbytes: Bytes of the ring that are page-locked now, as sources of copies to a device.
        pinning_s: Seconds spent in page-locking.
        ring_nbytes: Bytes of memory behind the ring now: what is published, what is free to be
            written again, and what the user keeps.
        budget_nbytes: What of that may be published or free (see ``memory_budget_nbytes``).
        cgroup_nbytes: The container's limit: the smallest of this process's memory cgroups when
            the producer was started; 0 where none has one.
    """

    num_microbatches: int = 0
    nbytes: int = 0
    num_copies: int = 0
    stall_s: float = 0.0
    num_skipped_shards: int = 0
    num_restarts: int = 0
    pinned_nbytes: int = 0
    pinning_s: float = 0.0
    ring_nbytes: int = 0
    budget_nbytes: int = 0
    cgroup_nbytes: int = 0

    def __add__(self, other: LoaderStats) -> LoaderStats:
        total = LoaderStats(*map(add, astuple(self), astuple(other)))
        # The one thing that several producers share.
        return replace(total, cgroup_nbytes=max(self.cgroup_nbytes, other.cgroup_nbytes))


class Feed(Protocol):
    """A stream of microbatches. Used by one thread at a time."""

    def begin_pass(self, epoch: int, start: int = 0) -> None:
        """Start over with the first microbatch of ``epoch``; what is prefetched is dropped."""

    def next(self, device: torch.device | None, number: int) -> Taken:
        """The next microbatch, its tensors on ``device``, or what happens before it.

        Args:
            device: None for host memory.
            number: Of that microbatch in its epoch, for errors to name.

        Raises:
            StopIteration: The pass is over.
        """

    def length(self) -> int | None:
        """Microbatches in the epoch; None when the source does not know."""

    def stats(self) -> LoaderStats:
        """What was delivered so far."""

    def tell_to_stop(self) -> None:
        """Say that `stop` comes, so that several can get ready for it at the same time."""

    def stop(self) -> None:
        """Give everything back. May be called more than once."""


class ProcessFeed(Feed, Protocol):
    """A feed from processes, which can die: then `next` and `length` raise ProducerDiedError."""

    def replace(self, work: Work, goes_on: bool) -> None:
        """Start another producer in place of the one whose death was raised.

        Args:
            work: Begins with what the dead one would have delivered next.
            goes_on: Whether the pass does; else the next one is awaited.
        """


def stop_all(feeds: Sequence[Feed]) -> None:
    """Stop them, each also when stopping another one fails."""
    for feed in feeds:
        feed.tell_to_stop()
    with ExitStack() as stops:
        for feed in reversed(feeds):
            stops.callback(feed.stop)
