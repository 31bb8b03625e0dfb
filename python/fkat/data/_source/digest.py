"""A digest of the indices that a sampler draws, the same however many are digested at once.

It is the CRC-32 (ISO 3309) of one run of bytes: the text of an index, or the integers of a list of
them, microbatch behind microbatch. So that ``[1], [2]`` differs from ``[1, 2]``, how many indices a
microbatch has is XORed into the CRC before its bytes. That gives what XORing it into the first of
its bytes would give, for these meet the CRC so far by XOR: a run is digested in one call.

Not a hash that withstands an enemy: what is looked for is data that changed by accident.
"""

from __future__ import annotations

from array import array
from itertools import chain
from operator import countOf
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt


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
    if len(drawn) > 1:
        try:
            if countOf(map(type, drawn), int) == len(drawn):
                return crc32(_of_integers(drawn), digest)
            if countOf(map(type, drawn), list) == len(drawn):
                return crc32(_of_lists(drawn), digest)
        except (TypeError, OverflowError):  # beyond what an array holds
            pass
    for index in drawn:
        digest = extend(digest, index)
    return digest


def _of_integers(drawn: list[int]) -> bytes:
    """Their decimals, 1 XORed into the first digit of each."""
    numbers = np.fromiter(drawn, np.int64, len(drawn))
    if numbers.min() < 0:
        raise OverflowError("a sign is no digit")
    width = len(str(numbers.max()))
    up_to_digit = numbers // 10 ** np.arange(width)[::-1, None]  # 123: 1, 12, 123
    is_shown = up_to_digit > 0
    is_shown[-1] = True
    digits = up_to_digit.astype(np.uint8)
    digits[1:] -= 10 * digits[:-1]  # modulo 256, as is what they are taken from
    digits += ord("0")
    digits ^= is_shown  # 1, and again 1 where another is shown before it
    digits[1:] ^= is_shown[:-1]
    text: npt.NDArray[np.uint8] = digits.T[is_shown.T]
    return text.tobytes()


def _of_lists(drawn: list[list[int]]) -> bytes:
    """Their integers, the length of each list XORed into its first."""
    lengths = np.fromiter(map(len, filter(None, drawn)), np.int64)
    integers = np.array(array("q", list(chain.from_iterable(drawn))))
    integers[lengths.cumsum() - lengths] ^= lengths
    return integers.tobytes()
