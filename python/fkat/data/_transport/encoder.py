"""Takes microbatches apart that look alike: their structure is pickled once.

What pickle makes of a microbatch (see `codec`) is mostly what it made of the last one, but for the
leaves. Then only these are collected, in C++: see ``csrc/bindings/gatherer.h``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fkat.data import _core
from fkat.data._transport.codec import LeafPickler, decode_plain, plain_array
from fkat.data._transport.dtypes import LAZY_CHECK_OF_PLAIN_DTYPE, to_dlpack


class Encoder:
    """Takes microbatches apart, one after another. Used by one thread."""

    def __init__(self) -> None:
        self._pickler = LeafPickler()
        self._repeats = _core.Repeats()
        # A structure and what gathers the leaves of microbatches that have it: replaced in one
        # step, since a signal handler may raise between any two.
        self._known: tuple[bytes, _core.Gatherer | None] = (b"", None)

    def encode(self, microbatch: Any, prefix: bytes) -> tuple[bytes, list[Any]]:
        """As `LeafPickler.dump`."""
        structure, gatherer = self._known
        if gatherer is not None:
            try:
                leaves = gatherer.gather(microbatch)
            except MemoryError:  # the pickler says for what
                leaves = None
            if leaves is not None:
                return prefix + structure, leaves
        text, leaves = self._pickler.dump(microbatch, prefix)
        if self._repeats.is_due(text, len(prefix)):
            structure = text[len(prefix) :]
            self._known = (structure, gatherer_of(structure, len(leaves)))
        return text, leaves


def gatherer_of(structure: bytes, num_leaves: int) -> _core.Gatherer | None:
    """For microbatches that have this structure; None if each is to be pickled."""
    plain = decode_plain(structure, num_leaves)
    if plain is None:
        return None
    return _core.Gatherer.of(
        *plain,
        tensor_type=torch.Tensor,
        lazy_checks=LAZY_CHECK_OF_PLAIN_DTYPE,
        to_dlpack=to_dlpack,
        array_type=np.ndarray,
        plain_array=plain_array,
    )
