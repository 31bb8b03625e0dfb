"""A microbatch, taken apart into a structure and its leaves, and put together again.

The structure is a pickle of the microbatch in which every plain tensor and array is replaced by its
number. So any container that can be pickled works, the bytes of tensors are never pickled, and one
object that appears twice stays one object. Leaves are handed to the ring as DLPack capsules
(tensors) and buffers (arrays).

What is not a plain leaf is pickled as a call on plain leaves (a tensor that requires grad, a dtype
that DLPack lacks, a sparse tensor, a structured array), or as its class wants (subclasses).
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch

from fkat.data import _core
from fkat.data._transport.dtypes import (
    LAZY_CHECK_OF_PLAIN_DTYPE,
    from_dlpack,
    is_lazy,
    to_dlpack,
)
from fkat.data._transport.locate import describe_unpicklable

asarray: Callable[[Any], np.ndarray[Any, Any]] = np.asarray

_PLAIN_ARRAY_CHARS = frozenset("?bhilqBHILQefdFD")
_VIEWABLE_ARRAY_KINDS = frozenset("biufcmMSUV")

# A structure above this may be of many objects: the pickler's table of them never shrinks.
_LARGE_NBYTES = 16 << 10


def encode(microbatch: Any) -> tuple[bytes, list[Any]]:
    """Take one microbatch apart. As `LeafPickler.dump`, without a prefix."""
    return LeafPickler().dump(microbatch, b"")


def decode(structure: bytes, leaves: Sequence[Any]) -> Any:
    """Put a microbatch together from its structure and its leaves (tensors and arrays).

    Args:
        structure: What `encode` returned, without the prefix that it was given.
        leaves: Tensors and arrays that view, or are copies of, the leaves that it returned.
    """
    return _Decoder(structure, leaves).load()


def decode_plain(structure: bytes, num_leaves: int) -> tuple[Any, list[object]] | None:
    """A structure that calls nothing, which most are: what `decode` makes of it.

    Returns:
        That, with an object of its own for each leaf, and these; None for another structure.
    """
    placeholders = [object() for _ in range(num_leaves)]
    copyreg.clear_extension_cache()  # what is there is called without asking the decoder
    try:
        return _PlainDecoder(structure, placeholders).load(), placeholders
    except pickle.UnpicklingError:
        return None


def move(microbatch: Any, device: torch.device) -> Any:
    """A copy of a microbatch with its tensors on ``device``."""
    structure, leaves = encode(microbatch)
    moved = (
        leaf if isinstance(leaf, np.ndarray) else from_dlpack(leaf).to(device) for leaf in leaves
    )
    return decode(structure, list(moved))


def _leaf(number: int) -> NoReturn:
    """Stands in the structure for a leaf; never called, since the decoder knows the leaves."""
    raise AssertionError(f"leaf {number} of a structure that was not given to decode()")


class _Decoder(pickle.Unpickler):
    def __init__(self, structure: bytes, leaves: Sequence[Any]) -> None:
        super().__init__(io.BytesIO(structure))
        self._leaves = leaves

    def find_class(self, module: str, name: str) -> Any:
        if name == _leaf.__name__ and module == __name__:
            return self._leaves.__getitem__
        return self._find_other(module, name)

    def _find_other(self, module: str, name: str) -> Any:
        return super().find_class(module, name)


class _PlainDecoder(_Decoder):
    def _find_other(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is to be called, or is data")


class LeafPickler:
    """Takes microbatches apart, one after another. Used by one thread."""

    def __init__(self) -> None:
        self._leaves: list[Any] = []
        self._file = io.BytesIO()
        self._pickler = pickle.Pickler(self._file, protocol=5)

    def dump(self, microbatch: Any, prefix: bytes) -> tuple[bytes, list[Any]]:
        """Take a microbatch apart.

        Args:
            microbatch: Any object that can be pickled, with tensors and arrays anywhere in it.
            prefix: What to put before the structure.

        Returns:
            The structure, and the leaves as DLPack capsules and objects with the buffer protocol.
            The leaves view the memory of the microbatch; nothing else is kept of it.

        Raises:
            TypeError: Something in it cannot be pickled; names its place.
        """
        self._forget()  # a signal handler may have raised before that was done
        self._file.write(prefix)
        # Looked up by exact type, before anything a class says about itself; what appears again is
        # found in the pickler's memo. Anew each time, because user code may register more.
        self._pickler.dispatch_table = {
            **copyreg.dispatch_table,
            torch.Tensor: self.reduce_tensor,
            np.ndarray: self.reduce_array,
        }
        try:
            self._pickler.dump(microbatch)
            return self._file.getvalue(), self._leaves
        except Exception as error:
            message = describe_unpicklable(microbatch, "microbatch", encode, error)
            raise TypeError(message) from error
        finally:
            self._forget()

    def _forget(self) -> None:
        if self._file.tell() > _LARGE_NBYTES:
            self._pickler = pickle.Pickler(self._file, protocol=5)
        self._pickler.clear_memo()
        self._pickler.dispatch_table = copyreg.dispatch_table  # no cycle of references
        self._leaves = []
        self._file.seek(0)
        self._file.truncate()

    def reduce_tensor(self, tensor: torch.Tensor) -> Any:
        """As ``__reduce_ex__``."""
        lazy_check = LAZY_CHECK_OF_PLAIN_DTYPE.get(tensor.dtype, _always)
        if tensor.requires_grad or (lazy_check is not None and lazy_check(tensor)):
            return _reduce_unusual_tensor(tensor)
        leaves = self._leaves
        try:
            capsule = to_dlpack(tensor)
            leaves.append(capsule if _core.is_dense(capsule) else to_dlpack(tensor.clone()))
        except (RuntimeError, BufferError):  # no memory to look at: sparse, nested, meta
            return _reduce_unusual_tensor(tensor)
        return _leaf, (len(leaves) - 1,)

    def reduce_array(self, array: np.ndarray[Any, Any]) -> Any:
        """As ``__reduce_ex__``."""
        plain = plain_array(array)
        if plain is None:
            return _reduce_unusual_array(array)
        self._leaves.append(plain)
        return _leaf, (len(self._leaves) - 1,)


def plain_array(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """The array as a leaf; None if it cannot be one."""
    dtype = array.dtype
    if dtype.char not in _PLAIN_ARRAY_CHARS or not dtype.isnative:
        return None
    return array if array.flags.forc else array.copy(order="K")


def _always(_: torch.Tensor) -> bool:
    return True


def _reduce_unusual_tensor(tensor: torch.Tensor) -> Any:
    if tensor.requires_grad:
        if not tensor.is_leaf:
            raise TypeError(
                "a tensor computed from tensors that require grad cannot leave its process: "
                "detach() it"
            )
        return _with_grad, (tensor.detach(),)
    if tensor.layout is not torch.strided:
        return _reduce_sparse(tensor)
    if not tensor.is_cpu or tensor.is_quantized:
        return _reduce_by_itself(tensor)
    if is_lazy(tensor):
        return _itself, (tensor.resolve_conj().resolve_neg(),)
    try:
        # Not view(-1): a single element may have any stride, and then has no bytes to view.
        row = tensor.contiguous().as_strided((tensor.numel(),), (1,))
        flat = row.view(torch.uint8)
    except RuntimeError:
        return _reduce_by_itself(tensor)
    return _from_raw, (flat, tensor.dtype, tuple(tensor.shape))


def _reduce_sparse(tensor: torch.Tensor) -> Any:
    """Sparse tensors as calls on their components.

    Not torch's own way: unpickling puts each into a global list that only ``torch.load`` empties
    (``torch._utils._sparse_tensors_to_validate``), and its slot would never be free again.
    """
    if tensor.layout is torch.sparse_coo:
        parts = (tensor._indices(), tensor._values(), tensor.shape, tensor.is_coalesced())
        return _sparse_coo, parts
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        indices = (tensor.crow_indices(), tensor.col_indices())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        indices = (tensor.ccol_indices(), tensor.row_indices())
    else:
        return _reduce_by_itself(tensor)
    return _sparse_compressed, (*indices, tensor.values(), tensor.shape, tensor.layout)


def _reduce_unusual_array(array: np.ndarray[Any, Any]) -> Any:
    dtype = array.dtype
    if dtype.hasobject or dtype.kind not in _VIEWABLE_ARRAY_KINDS or dtype.itemsize == 0:
        return _reduce_by_itself(array)
    is_fortran = array.flags.fnc
    rows = array.T if is_fortran else array
    flat = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    return _array_from_raw, (flat, dtype, rows.shape, is_fortran)


def _reduce_by_itself(obj: Any) -> Any:
    return obj.__reduce_ex__(5)


def _with_grad(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.requires_grad_()


def _itself(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _sparse_coo(
    indices: torch.Tensor, values: torch.Tensor, shape: torch.Size, is_coalesced: bool
) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        indices, values, shape, is_coalesced=is_coalesced, check_invariants=False
    )


def _sparse_compressed(
    compressed: torch.Tensor,
    plain: torch.Tensor,
    values: torch.Tensor,
    shape: torch.Size,
    layout: torch.layout,
) -> torch.Tensor:
    return torch.sparse_compressed_tensor(
        compressed, plain, values, shape, layout=layout, check_invariants=False
    )


def _from_raw(flat: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return flat.view(dtype).view(shape)


def _array_from_raw(
    flat: np.ndarray[Any, Any], dtype: np.dtype[Any], shape: tuple[int, ...], is_fortran: bool
) -> np.ndarray[Any, Any]:
    rows = flat.view(dtype).reshape(shape)
    return rows.T if is_fortran else rows
