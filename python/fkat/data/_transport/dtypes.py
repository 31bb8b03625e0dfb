"""Which dtypes travel as plain leaves, and what DLPack calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._C import _from_dlpack, _to_dlpack

from fkat.data import _core

from_dlpack: Callable[[Any], torch.Tensor] = _from_dlpack
to_dlpack: Callable[[torch.Tensor], Any] = _to_dlpack

LazyCheck = Callable[[torch.Tensor], bool]
"""Whether the memory of a tensor does not say all."""

# Dtypes by what can hide behind them: a lazy conjugation, a lazy negation, or nothing.
_COMPLEX = ("complex64", "complex128")
_FLOATING = (
    *("float16", "bfloat16", "float32", "float64"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
_INTEGRAL = (
    *("bool", "uint8", "uint16", "uint32", "uint64"),
    *("int8", "int16", "int32", "int64"),
)


def is_lazy(tensor: torch.Tensor) -> bool:
    """Whether the memory is to be conjugated or negated when read; DLPack would not say so."""
    return tensor.is_conj() or tensor.is_neg()


def _survives_dlpack(dtype: torch.dtype) -> bool:
    """Whether this torch sends the dtype through DLPack and gets it back: releases differ."""
    try:
        return from_dlpack(to_dlpack(torch.empty(1, dtype=dtype))).dtype == dtype
    except (RuntimeError, BufferError):
        return False


def _plain_dtypes() -> dict[torch.dtype, LazyCheck | None]:
    checks: tuple[tuple[tuple[str, ...], LazyCheck | None], ...]
    checks = ((_COMPLEX, is_lazy), (_FLOATING, torch.Tensor.is_neg), (_INTEGRAL, None))
    known = ((getattr(torch, name, None), check) for names, check in checks for name in names)
    return {dtype: check for dtype, check in known if dtype and _survives_dlpack(dtype)}


LAZY_CHECK_OF_PLAIN_DTYPE = _plain_dtypes()
PLAIN_DTYPE_OF_KEY = {
    _core.dtype_key(to_dlpack(torch.empty(1, dtype=dtype))): dtype
    for dtype in LAZY_CHECK_OF_PLAIN_DTYPE
}
