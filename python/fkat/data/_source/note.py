"""What a source says: microbatches, each with the place behind it, and what happens between."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

NO_DIGEST = 0  # where there are no indices to digest


class Ends(IntEnum):
    """What a microbatch is known to be the last of."""

    NOTHING = 0
    SHARD = 1
    EPOCH = 2


class Mark(NamedTuple):
    """The place behind a microbatch: where the next one stands.

    Attributes:
        shard: Number of the shard among those of this rank; 0 where there are no shards.
        offset: Microbatches of the shard (of the epoch, where there are no shards) up to here,
            those that other ranks take included.
        digest: Digest of the indices of all of them; `NO_DIGEST` if there are none.
        inner: The state of the user's own loader, pickled; empty if it has none.
        ends: What this was the last microbatch of, as far as the loader knows its length.
        before: Digest of the indices before this microbatch.
    """

    shard: int
    offset: int
    digest: int = NO_DIGEST
    inner: bytes = b""
    ends: Ends = Ends.NOTHING
    before: int = NO_DIGEST


class Delivered(NamedTuple):
    """A microbatch and the place behind it."""

    microbatch: Any
    mark: Mark


@dataclass(frozen=True)
class Described:
    """What the source is made of, told when it is begun.

    Attributes:
        source: See `fingerprint`.
        num_workers: How many producers it is to be dealt to.
    """

    source: tuple[tuple[str, Any], ...]
    num_workers: int = 1


@dataclass(frozen=True)
class Notice:
    """A warning to raise in the trainer."""

    text: str


@dataclass(frozen=True)
class ShardDone:
    """A shard has come to its end, or was skipped because of an error in it."""

    shard: int
    was_skipped: bool = False


Event = Described | Notice | ShardDone
Produced = Delivered | Event
