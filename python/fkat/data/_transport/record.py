"""What a source says, as a record of the ring.

The structure of a record begins with the place behind its microbatch (``csrc/bindings/mark.h``);
then comes the microbatch's own structure (see `codec`), or a pickled event.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import torch

from fkat.data import _core
from fkat.data._source.note import NO_DIGEST, Delivered, Ends, Mark, Produced
from fkat.data._transport.codec import asarray, decode, decode_plain
from fkat.data._transport.dtypes import from_dlpack
from fkat.data._transport.encoder import Encoder
from fkat.data._transport.remote_error import load_error

_MARK_OF_EVENT = _core.pack_mark(Ends.NOTHING, _core.EVENT, 0, NO_DIGEST, b"", NO_DIGEST)


def pack(produced: Produced, encoder: Encoder) -> tuple[bytes, list[Any]]:
    """The structure and the leaves of a record. Raises what `Encoder.encode` raises."""
    if type(produced) is not Delivered:
        return _MARK_OF_EVENT + pickle.dumps(produced), []
    microbatch, mark = produced
    return encoder.encode(microbatch, _core.pack_mark(*mark[:-1]))


def is_event(structure: bytes) -> bool:
    """Whether it is the structure of an event, not of a microbatch."""
    return int.from_bytes(structure[:8], "little", signed=True) == _core.EVENT


def end_of(record: _core.EndOfPass | _core.ProducerError) -> Exception:
    """What a record that is no microbatch says: that the pass is over, or why it failed."""
    return load_error(record.text) if isinstance(record, _core.ProducerError) else StopIteration()


def unpacker(device: torch.device | None = None) -> _core.Unpacker:
    """What makes of a record what `pack` was given; tensors moved to ``device`` unless it is None.

    Of one that is no microbatch it makes an exception, and raises it.
    """

    def from_dlpack_to_device(capsule: Any) -> torch.Tensor:
        return from_dlpack(capsule).to(device)

    on_host: Callable[[Any], torch.Tensor] = from_dlpack
    return _core.Unpacker(
        from_dlpack=on_host if device is None else from_dlpack_to_device,
        asarray=asarray,
        decode=decode,
        decode_plain=decode_plain,
        load_event=pickle.loads,
        load_end=end_of,
        mark=Mark,
        ends=tuple(Ends),
    )
