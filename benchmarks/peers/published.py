"""The published package `fkat` 0.1.2, in an interpreter of its own: its name is also ours."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.harness.descendants import descendants
from benchmarks.harness.question import CannotDoError
from benchmarks.peers.fkat import make_source
from benchmarks.peers.spec import Spec


@contextmanager
def open_loader(spec: Spec) -> Iterator[Iterable[Any]]:
    """Its `ShmDataLoader`: one process, whose DataLoader has what workers there are to be."""
    from fkat.data.shm import ShmDataLoader

    if spec.num_workers != 1:
        raise CannotDoError("it has one process")
    if spec.start_method not in (None, "fork"):
        raise CannotDoError("it works with fork only")
    loader: Any = ShmDataLoader(0, partial(make_source, spec), spec.num_prefetches)
    try:
        yield loader
    finally:  # its own teardown() hangs in the middle of an epoch; so does its exit handler
        for pid in descendants():
            os.kill(pid, signal.SIGKILL)
        if loader.path is not None:
            shutil.rmtree(loader.path, ignore_errors=True)
