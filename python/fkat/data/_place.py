"""Where a loader stands."""

from __future__ import annotations

from typing import NamedTuple

from fkat.data._source.fingerprint import NO_TRAIL, Trail
from fkat.data._source.note import Ends, Mark, WorkerPlace


class Place(NamedTuple):
    """Where the next microbatch stands.

    Attributes:
        epoch: Its epoch.
        microbatch: How many of the epoch this rank has had.
        shard: Number of the shard among those of this rank; 0 where there are no shards.
        trail: Digests of what came before it in the shard (in the epoch).
        inner: State of the user's own loader, pickled; empty if it has none.
        workers: Where each worker stands, if ``microbatch`` does not say it.
    """

    epoch: int
    microbatch: int = 0
    shard: int = 0
    trail: Trail = NO_TRAIL
    inner: bytes = b""
    workers: tuple[WorkerPlace, ...] = ()

    def behind(self, mark: Mark, microbatch: int) -> Place:
        """The place behind a later microbatch of this epoch.

        Args:
            mark: Of that microbatch, with none before it that the trail has to keep.
            microbatch: Its number, counted from 1.
        """
        if mark.ends is Ends.EPOCH:
            return Place(self.epoch + 1)
        if mark.ends is Ends.SHARD:
            return Place(self.epoch, microbatch, mark.shard + 1)
        trail = (self.trail if self.shard == mark.shard else NO_TRAIL).then(mark)
        return Place(self.epoch, microbatch, mark.shard, trail, mark.inner, mark.workers)


class Standing(NamedTuple):
    """A place, worked out only where somebody asks for it or where its trail needs it.

    Attributes:
        base: The place, or the last one that was worked out.
        microbatch: How many of the epoch this rank has had.
        mark: Of the last of them, if that is later than ``base``.
    """

    base: Place
    microbatch: int
    mark: Mark | None = None

    @staticmethod
    def at(place: Place) -> Standing:
        """At a place."""
        return Standing(place, place.microbatch)

    @property
    def place(self) -> Place:
        """It, worked out."""
        return self.base if self.mark is None else self.base.behind(self.mark, self.microbatch)

    def behind(self, mark: Mark) -> Standing:
        """Behind the next microbatch, whose mark this is."""
        base, microbatch = self.base, self.microbatch + 1
        if mark.ends or mark.shard != base.shard or mark.offset >= base.trail.next_kept:
            return Standing(base.behind(mark, microbatch), microbatch)
        return Standing(base, microbatch, mark)
