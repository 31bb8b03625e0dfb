"""Descriptors of running loaders, which a producer that the trainer forks does not keep.

Each would cost it, and its workers, a descriptor for every loader made before its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from weakref import WeakSet

from fkat.data import _core

_rings: WeakSet[_core.Ring] = WeakSet()
_fds: set[int] = set()
_kept: list[_core.Ring] = []


def add(ring: _core.Ring, fds: Iterable[int]) -> None:
    """From now on a forked producer closes these; all of them are open."""
    _rings.add(ring)
    _fds.update(fds)


def rings() -> list[_core.Ring]:
    """Those of running loaders."""
    return list(_rings)


def discard(fds: Iterable[int]) -> None:
    """These are about to be closed. Before that: a number may become another file's."""
    _fds.difference_update(fds)


def close() -> None:
    """Close them in this process, a producer that has just been forked.

    The rings stay mapped, for user code may hold tensors in them. They also live as long as this
    process: one that was collected would close its descriptor again, which may be another file's
    by then.
    """
    _kept.extend(_rings)
    for fd in {*_fds, *(fd for ring in _kept for fd in (ring.fd, *ring.wake_fds))}:
        with suppress(OSError):
            os.close(fd)
    _rings.clear()
    _fds.clear()
