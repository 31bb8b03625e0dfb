"""File descriptors for a process that is being started, whatever the start method."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import context, reduction
from typing import Any


class InheritedFd:
    """A file descriptor that reaches a child process under every start method.

    Under fork it is simply inherited; otherwise it is handed over while the process is started.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._handle: Any = None

    def __reduce__(self) -> tuple[Callable[[Any], InheritedFd], tuple[Any]]:
        return _receive_fd, (self.handle(),)

    def handle(self) -> Any:
        """What stands for it in the pickle. One, however often: spawn refuses a number twice."""
        context.assert_spawning(self)
        if self._handle is None:
            self._handle = reduction.DupFd(self.fd)
        return self._handle


class InheritedFdNumber:
    """Becomes the number of an `InheritedFd`, without an import of ours where it is unpickled."""

    def __init__(self, fd: InheritedFd) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Callable[[], int], tuple[()]]:
        return self._fd.handle().detach, ()


def _receive_fd(handle: Any) -> InheritedFd:
    return InheritedFd(handle.detach())
