"""Ctrl-C while a producer is started: it must neither reach the producer nor lose it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from types import FrameType


@contextmanager
def deferred() -> Iterator[None]:
    """Have what handles SIGINT here run at the end, if it came.

    Blocking the signal would not do: another thread takes it, and Python tells the main one.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *arguments: came.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[0])


@contextmanager
def blocked(context: BaseContext) -> Iterator[None]:
    """Keep Ctrl-C from a new interpreter until it has read its name.

    Only under spawn: fork is done in a moment, and a forkserver would hand the mask to others.
    """
    if context.get_start_method() != "spawn":
        yield
        return
    resource_tracker.ensure_running()  # starting it later would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
