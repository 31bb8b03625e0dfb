"""A digest of the indices that a sampler draws, the same however many are digested at once.

It is the CRC-32 (ISO 3309) of one run of bytes: the text of an index, or the integers of a list of
them, microbatch behind microbatch. So that ``[1], [2]`` differs from ``[1, 2]``, how many indices a
microbatch has is XORed into the CRC before its bytes. That gives what XORing it into the first of
its bytes would give, for these meet the CRC so far by XOR: a run is digested in one call.

Not a hash that withstands an enemy: what is looked for is data that changed by accident.
"""

from __future__ import annotations

from array import array
from typing import Any
from zlib import crc32

from fkat.data import _core


def extend(digest: int, drawn: Any) -> int:
    """The digest of all indices up to those of one more microbatch.

    Args:
        digest: Of those before; 0 at first.
        drawn: By the sampler for the microbatch: an index, or a list of them.
    """
    if type(drawn) is list:
        try:
            return crc32(array("q", drawn), digest ^ len(drawn))
        except (TypeError, OverflowError):  # not of integers
            pass
    return crc32(b"%d" % drawn if type(drawn) is int else repr(drawn).encode(), digest ^ 1)


def extend_all(digest: int, drawn: list[Any]) -> int:
    """What `extend` comes to after each of several microbatches, for a fraction of its time.

    Args:
        digest: Of those before; 0 at first.
        drawn: By the sampler for each microbatch.
    """
    run = _core.index_bytes(drawn)
    if run is not None:
        return crc32(run, digest)
    for index in drawn:
        digest = extend(digest, index)
    return digest
