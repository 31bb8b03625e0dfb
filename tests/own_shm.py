"""A /dev/shm of its own for each process of pytest that runs tests beside others.

PyTorch makes a file there for each tensor that a DataLoader's worker hands over, and removes it in
the next moment; of a worker that ends between the two it stays. Who left it cannot be told once the
worker is gone, so a test that looks for what it has left must not see the files of another process.
"""

from __future__ import annotations

import ctypes
import os

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18  # linux/mount.h

_libc = ctypes.CDLL(None, use_errno=True)


def mount() -> bool:
    """Give this thread, and what it starts, one; False where that is not permitted (no root)."""
    try:
        _call("unshare", _CLONE_NEWNS)
        _call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
        _call("mount", b"tmpfs", b"/dev/shm", b"tmpfs", ctypes.c_ulong(0), b"mode=1777")
    except OSError:
        return False
    return True


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
