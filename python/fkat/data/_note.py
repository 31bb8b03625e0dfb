"""What a producer says: microbatches, each with its place, and what happens between them.

A record of the ring is one of these. Its structure begins with the place; the rest of it is the
microbatch's structure (see `_codec`) or a pickled event.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import torch

from fkat.data._codec import decode, encode

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
    """

    shard: int
    offset: int
    digest: int = NO_DIGEST
    inner: bytes = b""
    ends: Ends = Ends.NOTHING


class Delivered(NamedTuple):
    """A microbatch and the place behind it."""

    microbatch: Any
    mark: Mark


@dataclass(frozen=True)
class Described:
    """What the source is made of, told once at the beginning of a pass; see `_fingerprint`."""

    source: tuple[tuple[str, Any], ...]


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

_ENDS = tuple(Ends)  # a look-up in a tuple: making an Ends of a number takes a microsecond
_PLACE = struct.Struct("<qqIBI")  # shard (-1: an event), offset, digest, ends, bytes of inner


def pack(produced: Produced) -> tuple[bytes, list[Any]]:
    """The structure and the leaves of a record. Raises what `_codec.encode` raises."""
    if type(produced) is not Delivered:
        return _PLACE.pack(-1, 0, NO_DIGEST, 0, 0) + pickle.dumps(produced), []
    microbatch, (shard, offset, digest, inner, ends) = produced
    place = _PLACE.pack(shard, offset, digest, ends, len(inner))
    return encode(microbatch, place + inner)


def unpack(structure: bytes, leaves: Sequence[Any], device: torch.device | None) -> Produced:
    """What `pack` was given; tensors of a microbatch on ``device`` unless it is None."""
    shard, offset, digest, ends, inner_nbytes = _PLACE.unpack_from(structure)
    begin = _PLACE.size + inner_nbytes
    if shard < 0:
        event: Event = pickle.loads(structure[begin:])
        return event
    inner = structure[_PLACE.size : begin]
    mark = Mark(shard, offset, digest, inner, _ENDS[ends])
    return Delivered(decode(structure, leaves, device, begin), mark)
