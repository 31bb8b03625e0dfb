"""The loaders that are measured, each with one process, made by fork, that makes microbatches."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

COUNT = 100_000
TROUBLE_AT = 30
FOREVER_S = 1_000_000

_NUM_SEGMENTS = 8  # SPDL's buffer of 3 and what the trainer holds
_NUM_UNITS = 5  # SPDL's advice for its ring: (buffer_size + 2) microbatches


def hang_for_ever() -> None:
    """User code that waits for something that never comes."""
    time.sleep(FOREVER_S)


def hold_the_gil() -> None:
    """The same in an extension that keeps the GIL."""
    ctypes.PyDLL(None).sleep(FOREVER_S)


TROUBLES: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "hang": hang_for_ever,
    "gil": hold_the_gil,
}


class Items(Dataset[torch.Tensor]):
    """Tensors of bytes: the maker's pid, their number, and then their number modulo 251.

    Args:
        nbytes: Size of each.
        trouble: What the maker runs into at number ``TROUBLE_AT``.
    """

    def __init__(self, nbytes: int, trouble: str) -> None:
        self._nbytes = nbytes
        self._trouble = trouble

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.001)
        if index == TROUBLE_AT:
            TROUBLES[self._trouble]()
        microbatch = torch.full((self._nbytes,), index % 251, dtype=torch.uint8)
        microbatch[:16].view(torch.int64)[:] = torch.tensor([os.getpid(), index])
        return microbatch


def items(nbytes: int, trouble: str) -> DataLoader[torch.Tensor]:
    """Without processes of its own."""
    return DataLoader(Items(nbytes, trouble), batch_size=None)


def _data_loader(nbytes: int, trouble: str, timeout: float) -> Iterable[Any]:
    return DataLoader(
        Items(nbytes, trouble),
        batch_size=None,
        num_workers=1,
        timeout=timeout,
        multiprocessing_context="fork",
    )


def _stateful_data_loader(nbytes: int, trouble: str, timeout: float) -> Iterable[Any]:
    from torchdata.stateful_dataloader import StatefulDataLoader

    loader: Iterable[Any] = StatefulDataLoader(
        Items(nbytes, trouble),
        batch_size=None,
        num_workers=1,
        timeout=timeout,
        multiprocessing_context="fork",
    )
    return loader


def _spdl_pool(nbytes: int, trouble: str, timeout: float) -> Iterable[Any]:
    from spdl.pipeline import SharedMemorySegmentPool

    return _spdl(SharedMemorySegmentPool(nbytes, _NUM_SEGMENTS), nbytes, trouble, timeout)


def _spdl_ring(nbytes: int, trouble: str, timeout: float) -> Iterable[Any]:
    from spdl.pipeline import SharedMemoryRingBuffer

    return _spdl(SharedMemoryRingBuffer(_NUM_UNITS * nbytes), nbytes, trouble, timeout)


def _spdl(arena: Any, nbytes: int, trouble: str, timeout: float) -> Iterable[Any]:
    from spdl.pipeline import iterate_in_subprocess

    loader: Iterable[Any] = iterate_in_subprocess(
        partial(items, nbytes, trouble),
        mp_context="fork",
        timeout=timeout or None,
        arena=arena,
    )
    return loader


def _shm_data_loader(nbytes: int, trouble: str, timeout: float) -> Iterable[Any]:
    from fkat.data import ShmDataLoader

    factory = partial(items, nbytes, trouble)
    return ShmDataLoader(0, factory, 4, timeout=timeout, multiprocessing_context="fork")


_OPENERS: dict[str, tuple[str, Callable[[int, str, float], Iterable[Any]]]] = {
    "DataLoader": ("torch", _data_loader),
    "StatefulDataLoader": ("torchdata", _stateful_data_loader),
    "SPDL, segment pool": ("spdl", _spdl_pool),
    "SPDL, ring buffer": ("spdl", _spdl_ring),
    "ShmDataLoader": ("fkat", _shm_data_loader),
}
LOADERS = tuple(_OPENERS)


def is_installed(loader: str) -> bool:
    """Whether this environment has it."""
    return find_spec(_OPENERS[loader][0]) is not None


def open_loader(loader: str, nbytes: int, trouble: str, timeout: float) -> Iterable[Any]:
    """The loader of that name over `Items`; ``timeout`` in seconds, 0 for none."""
    return _OPENERS[loader][1](nbytes, trouble, timeout)
