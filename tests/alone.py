"""Tests in several processes at once (pytest-xdist), but for those that must run alone.

A test marked ``alone`` looks at what all processes share, such as /dev/shm where each cannot have
its own, or at how much of the machine it gets. In every other process of pytest the next test waits
until it has ended.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest

from tests import own_shm

SHM = Path("/dev/shm")

_TENSOR = re.compile(r"torch_(\d+)_")

_is_shm_shared = False  # with other processes of pytest


def is_one_of_several() -> bool:
    """Whether other processes of pytest run other tests at the same time."""
    return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1


def pytest_sessionstart() -> None:
    """Part from the others as far as that is permitted."""
    global _is_shm_shared
    _is_shm_shared = is_one_of_several() and not own_shm.mount()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # the watchdog's time starts after the waiting
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run the test together with those of other processes, or alone."""
    if not is_one_of_several():
        return (yield)
    of_all_processes = Path(item.config.option.basetemp).parent
    with _turn(of_all_processes, alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """A lock of readers and writers. Whoever is at the gate is next, so nobody starves."""
    # Locks of fcntl are the process's: no child keeps one, whatever becomes of the parent.
    with (folder / "gate").open("a+") as gate, (folder / "room").open("a+") as room:
        _lock(gate, fcntl.LOCK_EX)
        _lock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        _lock(gate, fcntl.LOCK_UN)
        yield


def _lock(file: IO[str], operation: int) -> None:
    fcntl.lockf(file, operation)


def shm_files() -> set[str]:
    """Names in /dev/shm; where it is shared, but for what may be of other processes of pytest.

    There what nobody uses counts everywhere: a test that leaves it fails, and perhaps one beside
    it, too. Not so a tensor's, of a process that is gone: see `tests.own_shm`.
    """
    names = {path.name for path in SHM.iterdir()}
    if not names or not _is_shm_shared:
        return names
    return names - _used(names, by=_of_others()) - _tensors_of_the_dead(names)


def _of_others() -> list[psutil.Process]:
    ours = psutil.Process()
    all_of_pytest = psutil.Process(ours.ppid()).children(recursive=True)
    return [p for p in all_of_pytest if p not in {ours, *ours.children(recursive=True)}]


def _used(names: set[str], by: list[psutil.Process]) -> set[str]:
    """Those that a process has made, as torch's names say, or has mapped."""
    return {name for name in names for p in by if f"_{p.pid}_" in name or name in _mapped(p)}


def _tensors_of_the_dead(names: set[str]) -> set[str]:
    makers = {name: maker for name in names if (maker := _TENSOR.match(name))}
    return {name for name, maker in makers.items() if not psutil.pid_exists(int(maker[1]))}


def _mapped(process: psutil.Process) -> set[str]:
    try:
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    except OSError:  # it has ended meanwhile
        return set()
    return {Path(line.split(maxsplit=5)[-1]).name for line in lines if f" {SHM}/" in line}
