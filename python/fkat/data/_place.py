"""Where a loader stands."""

from __future__ import annotations

from typing import NamedTuple

from fkat.data._source.fingerprint import NO_TRAIL, Trail
from fkat.data._source.note import WorkerPlace


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
