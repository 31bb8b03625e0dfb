"""What a source says, as a record of the ring.

The structure of a record begins with the place behind its microbatch; then comes the microbatch's
own structure (see `codec`), or a pickled event.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from fkat.data._source.note import NO_DIGEST, Delivered, Ends, Event, Mark, Produced
from fkat.data._transport.codec import Encoder, decode

_ENDS = tuple(Ends)  # a look-up in a tuple: making an Ends of a number takes a microsecond
# Without the Python function that a NamedTuple has for a constructor.
_mark: Callable[[tuple[Any, ...]], Mark] = partial(tuple.__new__, Mark)
_delivered: Callable[[tuple[Any, Mark]], Delivered] = partial(tuple.__new__, Delivered)

# shard (-1: an event), offset, digest, ends, digest before, bytes of inner
_PLACE = struct.Struct("<qqIBII")


def pack(produced: Produced, encoder: Encoder) -> tuple[bytes, list[Any]]:
    """The structure and the leaves of a record. Raises what `Encoder.encode` raises."""
    if type(produced) is not Delivered:
        return _PLACE.pack(-1, 0, NO_DIGEST, 0, NO_DIGEST, 0) + pickle.dumps(produced), []
    microbatch, (shard, offset, digest, inner, ends, before, _) = produced
    place = _PLACE.pack(shard, offset, digest, ends, before, len(inner))
    return encoder.encode(microbatch, place + inner)


def is_event(structure: bytes) -> bool:
    """Whether it is the structure of an event, not of a microbatch."""
    shard: int = _PLACE.unpack_from(structure)[0]
    return shard < 0


def unpack(structure: bytes, leaves: Sequence[Any], device: torch.device | None) -> Produced:
    """What `pack` was given; tensors of a microbatch on ``device`` unless it is None."""
    shard, offset, digest, ends, before, inner_nbytes = _PLACE.unpack_from(structure)
    begin = _PLACE.size + inner_nbytes
    if shard < 0:
        event: Event = pickle.loads(structure[begin:])
        return event
    inner = structure[_PLACE.size : begin]
    mark = _mark((shard, offset, digest, inner, _ENDS[ends], before, ()))
    return _delivered((decode(structure, leaves, device, begin), mark))
