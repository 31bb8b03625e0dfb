"""Fixtures for every test: nothing may be left behind, and trainers to be killed."""

from __future__ import annotations

import gc
import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.alone import pytest_runtest_protocol, pytest_sessionstart, shm_files

__all__ = ["pytest_runtest_protocol", "pytest_sessionstart"]  # hooks of ours, too

_PATIENCE_S = 60.0  # half the watchdog's: a failed wait says what it waited for
_GRACE_S = 10.0  # for the kernel to take processes down
_HELPERS_OF_MULTIPROCESSING = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")


def wait_until(condition: Callable[[], object], within_s: float = _PATIENCE_S) -> None:
    """Poll until ``condition`` holds; fail the test when it does not come true at all."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"still not true after {within_s} s"
        time.sleep(0.005)


def running_children(pid: int | None = None) -> set[int]:
    """Descendants of a process (this one by default) but for multiprocessing's own helpers."""
    if pid is None and _is_childless():
        return set()
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return set()
    return {child.pid for child in children if not _is_helper(child)}


def _is_childless() -> bool:
    """Whether this process has no child, not even a zombie: one call instead of all of /proc."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _is_helper(process: psutil.Process) -> bool:
    try:
        # The forkserver's children carry its command line, so look at its place in the tree, too.
        line = " ".join(process.cmdline())
        is_direct = process.ppid() == psutil.Process().pid
    except psutil.NoSuchProcess:
        return True
    return is_direct and any(name in line for name in _HELPERS_OF_MULTIPROCESSING)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie only waits for whoever inherited it, such as a slow init."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ring_memfds() -> int:
    links = (_target(fd) for fd in Path("/proc/self/fd").iterdir())
    return sum("memfd:fkat" in link for link in links)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:  # the descriptor of the listing itself
        return ""


def pytest_collection_finish() -> None:
    """Take what the imports have made out of the collector's sight: it is there to stay.

    A collection visits a million objects otherwise, and in a forked child copies their pages.
    """
    gc.collect()
    gc.freeze()


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remember whether the test itself failed: then its traceback keeps its loader alive."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a child process, an open ring, or a file in /dev/shm."""
    processes, memfds, files = running_children(), _ring_memfds(), shm_files()
    yield
    if request.node.stash.get(_FAILED, False):
        return
    give_up = time.monotonic() + _GRACE_S
    collected = False
    while True:
        left = {
            "processes": running_children() - processes,
            "rings": set(range(memfds, _ring_memfds())),
            "files in /dev/shm": shm_files() - files,
        }
        if not any(left.values()):
            return
        if not collected:  # 0.3 s over torch's heap: only for a test that needs it
            gc.collect()
            collected = True
        if time.monotonic() > give_up:
            pytest.fail("left behind: " + ", ".join(f"{k}: {v}" for k, v in left.items() if v))
        time.sleep(0.01)


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    """`wait_until`, for test modules (which cannot import this file under importlib mode)."""
    return wait_until


@pytest.fixture(name="is_alive")
def is_alive_fixture() -> Callable[[psutil.Process], bool]:
    """`is_alive`, for test modules."""
    return is_alive


class Trainer:
    """A Python script in a process of its own, in a process group of its own, to do harm to."""

    def __init__(self, script: Path, arguments: tuple[str, ...], prefix: tuple[str, ...]) -> None:
        command = [*prefix, sys.executable, "-u", str(script), *arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._seen: set[psutil.Process] = set()

    def read_line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        # Every line is flushed whole, so one that has begun to come comes.
        readable, _, _ = select.select([self._process.stdout], [], [], _PATIENCE_S)
        assert readable, f"the trainer printed nothing within {_PATIENCE_S} s"
        line = self._process.stdout.readline()
        assert line, f"the trainer ended: {self.finish()}"
        return line.rstrip("\n")

    def descendants(self) -> list[psutil.Process]:
        """Every process below it, at this moment."""
        found = psutil.Process(self.pid).children(recursive=True)
        self._seen.update(found)
        return found

    def kill(self) -> None:
        """SIGKILL, to it alone."""
        self._process.kill()
        self._process.wait()

    def finish(self) -> tuple[int, str, str]:
        """Exit code, what else it printed, and its standard error."""
        output, errors = self._process.communicate(timeout=_PATIENCE_S)
        return self._process.returncode, output, errors

    def clean_up(self) -> None:
        """Whatever the test did, nothing of it stays."""
        if self._process.poll() is None:
            self.descendants()
            self.kill()
        for process in self._seen:
            if process.is_running():  # the same process, not merely the same pid
                process.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def start_trainer(tmp_path: Path) -> Iterator[Callable[..., Trainer]]:
    """Start a script: ``start_trainer(source, *arguments, prefix=())``."""
    trainers: list[Trainer] = []

    def start(source: str, *arguments: str, prefix: tuple[str, ...] = ()) -> Trainer:
        script = tmp_path / f"trainer_{len(trainers)}.py"
        script.write_text(textwrap.dedent(source))
        trainers.append(Trainer(script, arguments, prefix))
        return trainers[-1]

    yield start
    for trainer in trainers:
        trainer.clean_up()
