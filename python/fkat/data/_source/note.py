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


class WorkerPlace(NamedTuple):
    """How far one of several workers has got in an epoch.

    Attributes:
        num_delivered: Microbatches of it that the trainer has had.
        has_ended: Whether it is known to have no more.
        digest: Digest of the indices up to the last of them; `NO_DIGEST` if there are none.
        inner: The state of its own copy of the dataset, pickled; empty if it has none.
    """

    num_delivered: int = 0
    has_ended: bool = False
    digest: int = NO_DIGEST
    inner: bytes = b""


class Mark(NamedTuple):
    """The place behind a microbatch: where the next one stands.

    In this order of fields: marks are compared, see `fkat.data._place.Standing`.

    Attributes:
        ends: What this was the last microbatch of, as far as the loader knows its length.
        shard: Number of the shard among those of this rank; 0 where there are no shards.
        offset: Microbatches of the shard (of the epoch, where there are no shards) up to here,
            those that other ranks take included.
        digest: Digest of the indices of all of them; `NO_DIGEST` if there are none.
        inner: The state of the user's own loader, pickled; empty if it has none.
        before: Digest of the indices before this microbatch.
        workers: How far each worker has got, where ``offset`` does not say it. Known to the trainer
            alone.
    """

    ends: Ends
    shard: int
    offset: int
    digest: int = NO_DIGEST
    inner: bytes = b""
    before: int = NO_DIGEST
    workers: tuple[WorkerPlace, ...] = ()


class Dealing(NamedTuple):
    """How microbatches are divided among producers, and taken from them.

    Attributes:
        num_workers: How many producers there are.
        is_by_number: Whether microbatch k is that of worker k modulo their number; else each makes
            a stream of its own.
        in_order: Whether they take turns; else a microbatch is delivered when it is ready.
    """

    num_workers: int = 1
    is_by_number: bool = True
    in_order: bool = True

    @property
    def counts_each(self) -> bool:
        """Whether one number does not say how far each is."""
        return not (self.is_by_number and self.in_order)


ONE_PRODUCER = Dealing()


class Delivered(NamedTuple):
    """A microbatch and the place behind it."""

    microbatch: Any
    mark: Mark


@dataclass(frozen=True)
class Described:
    """What the source is made of, told when it is begun.

    Attributes:
        source: See `fingerprint`.
        dealing: How it is divided among producers.
    """

    source: tuple[tuple[str, Any], ...]
    dealing: Dealing = ONE_PRODUCER


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
"""What a producer makes."""

Marked = tuple[Any, Mark]
"""A microbatch and the place behind it, in the trainer: a plain tuple, which Python takes apart in
one step."""

Taken = Marked | tuple[Event, None]
"""What the trainer takes from a feed."""
