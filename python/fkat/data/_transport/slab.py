"""The tensors of a microbatch as views of one piece of memory, where a copy has put them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fkat.data._transport.dtypes import PLAIN_DTYPE_OF_KEY


def tensors_in(slab: torch.Tensor, leaves: Sequence[Any]) -> list[Any]:
    """Leaves with every placed tensor replaced by a view of the slab; arrays stay as they are.

    Args:
        slab: uint8, shape ``(nbytes,)``; aligned as torch aligns what it allocates.
        leaves: What ``_core.Microbatch.placed_leaves`` returned.

    The views share the slab's storage, so the slab lives as long as any of them. Each has a version
    counter of its own: writing to one does not spoil another that autograd has saved.
    """
    typed: dict[int, torch.Tensor] = {}  # the slab as elements of each dtype that occurs
    views: list[Any] = []
    for leaf in leaves:
        if type(leaf) is not tuple:
            views.append(leaf)
            continue
        key, offset, shape, strides = leaf
        if key not in typed:
            typed[key] = _as_elements(slab, PLAIN_DTYPE_OF_KEY[key])
        # .data: a tensor by itself and no view in autograd's eyes, hence the version counter.
        views.append(typed[key].as_strided(shape, strides, offset).data)
    return views


def _as_elements(slab: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    whole = slab.numel() // dtype.itemsize * dtype.itemsize
    return slab[:whole].view(dtype)
