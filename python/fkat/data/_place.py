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


Standing = tuple[Place, int, Mark | None, tuple[Ends, int, int]]
"""A place, worked out only where somebody asks for it or where its trail needs it: the last place
that was worked out; how many microbatches of the epoch this rank has had; the mark of the last of
them, if that is later than the place; and the least mark that the place has to be worked out for,
since it ends something, is of a later shard, or has a digest that the trail keeps.

A plain tuple, since the loader takes one apart and makes another for each microbatch.
"""


def standing_at(place: Place) -> Standing:
    """At a place."""
    return place, place.microbatch, None, (Ends.NOTHING, place.shard, place.trail.next_kept)


def place_of(standing: Standing) -> Place:
    """It, worked out."""
    base, microbatch, mark, _ = standing
    return base if mark is None else base.behind(mark, microbatch)
