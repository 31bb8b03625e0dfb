"""Files that several configurations of a run read: written once, gone when the run has ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

_VARIABLE = "FKAT_BENCHMARKS_FOLDER"


@contextmanager
def shared_by_processes() -> Iterator[None]:
    """What processes started meanwhile write is shared among them, and removed at the end."""
    with TemporaryDirectory(prefix="fkat-benchmarks-") as folder:
        os.environ[_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[_VARIABLE]


@cache
def _folder_of_this_process() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="fkat-benchmarks-")


def written_once(name: str, write: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the run, which ``write`` fills if no process of it has before.

    A configuration that no run has started has a folder of its own, for as long as it lives.
    """
    folder = Path(os.environ.get(_VARIABLE) or _folder_of_this_process().name)
    if not (folder / name).exists():
        unfinished = Path(mkdtemp(prefix=f"{name}-", dir=folder))
        write(unfinished)
        unfinished.rename(folder / name)
    return folder / name
