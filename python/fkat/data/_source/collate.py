"""Microbatches that are collated where the trainer reads them: in a slot of the ring.

A producer says where its slots are (`use`). Before that, and in every other process, memory is
torch's own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map
from torch.utils.dlpack import from_dlpack

# Below this the call costs more than the copy that it saves.
_WORTHWHILE_NBYTES = 16 << 10

# From here on numpy asks for huge pages (numpy/_core/src/multiarray/alloc.c). Fresh pages of 4 KiB
# take longer than what is written to them.
_HUGE_NBYTES = 4 << 20

_allocate: Callable[[int], Any] | None = None
_owner = 0  # the process whose slots they are


def use(allocate: Callable[[int], Any]) -> None:
    """Collate into memory that ``allocate`` gives, in this process only.

    Args:
        allocate: Of a number of bytes makes a DLPack capsule of that many, or None.
    """
    global _allocate, _owner
    _allocate, _owner = allocate, os.getpid()
    if default_collate_fn_map.get(torch.Tensor) is collate_tensor_fn:  # not the user's own
        default_collate_fn_map[torch.Tensor] = _collate_tensors


def empty(size: Sequence[int], *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """``torch.empty`` for a ``collate_fn``: where possible in shared memory, to be read in place.

    What a producer puts into it is not copied on its way to the trainer. Anywhere else, and when
    there is no room, it is memory like any other. Keeping it costs a copy, and is safe.

    Args:
        size: Shape of the tensor.
        dtype: Its type; None for torch's default.
    """
    dtype = dtype or torch.get_default_dtype()
    memory = _memory(size, dtype)
    return torch.empty(tuple(size), dtype=dtype) if memory is None else memory


def empty_array(shape: Sequence[int], dtype: Any = float) -> np.ndarray[Any, Any]:
    """``numpy.empty``, likewise.

    Args:
        shape: Shape of the array.
        dtype: Its type, without objects.
    """
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise TypeError(f"an array of {dtype} cannot be in shared memory")
    memory = empty((math.prod(shape) * dtype.itemsize,), dtype=torch.uint8)
    array: np.ndarray[Any, Any] = memory.numpy().view(dtype).reshape(tuple(shape))
    return array


def _memory(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
    """In a producer: memory in the slot; else in huge pages, if it is large; else None."""
    nbytes = math.prod(shape) * dtype.itemsize
    if _allocate is None or nbytes < _WORTHWHILE_NBYTES or os.getpid() != _owner:
        return None
    capsule = _allocate(nbytes)
    if capsule is not None:
        memory = from_dlpack(capsule)
    elif nbytes >= _HUGE_NBYTES:
        memory = torch.from_numpy(np.empty(nbytes, np.uint8))
    else:
        return None
    return memory.view(dtype).view(tuple(shape))


def _collate_tensors(batch: Sequence[torch.Tensor], *, collate_fn_map: Any = None) -> Any:
    """As torch's own, but for where the result lies."""
    first = batch[0]
    if os.getpid() != _owner or first.is_nested or first.layout is not torch.strided:
        # In a worker that user code has forked; or refused by torch's own.
        return collate_tensor_fn(batch, collate_fn_map=collate_fn_map)
    # In a worker torch's own stacks into memory that it has made: of the first one's dtype, and in
    # order of rows. Elsewhere the samples decide, and images or videos may be channels-last.
    is_worker = get_worker_info() is not None
    if all(type(each) is torch.Tensor for each in batch) and (is_worker or _is_in_order(batch)):
        shape = (len(batch), *first.shape)
        out = _memory(shape, first.dtype) if first.is_cpu else None
        if out is None and is_worker:
            # Torch's own would be a file of /dev/shm, which nobody opens here.
            out = first.new_empty(shape)
        if out is not None:
            try:
                return torch.stack(tuple(batch), out=out)
            except RuntimeError:
                pass  # torch's own says why not, or can (tensors that require grad, for example)
    return torch.stack(tuple(batch))


def _is_in_order(batch: Sequence[torch.Tensor]) -> bool:
    """Whether `torch.stack` makes rows in order, of the dtype of the first."""
    first = batch[0]
    if not all(each.dtype is first.dtype for each in batch):
        return False
    return first.dim() < 4 or all(each.is_contiguous() for each in batch)
