"""A victim as seen from outside: what it says, its processes, its files, how it ends."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

from benchmarks.harness.environment import ROOT

PATIENCE_S = 20.0
START_PATIENCE_S = 120.0  # importing torch, on a busy machine


def seconds_until(condition: Callable[[], bool]) -> float | None:
    """How long it took to come true; None when it did not."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        if condition():
            return time.monotonic() - began
        time.sleep(0.002)
    return None


def is_gone(process: psutil.Process) -> bool:
    """Dead, perhaps not yet buried."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def are_gone(processes: list[psutil.Process]) -> bool:
    """All of them."""
    return all(map(is_gone, processes))


class Victim:
    """A trainer in a session of its own; nothing of it stays behind the context.

    Args:
        arguments: Of `benchmarks.reliability.victim`.
        shell: Run first, in a mount namespace of its own.
    """

    def __init__(self, *arguments: str, shell: str = "") -> None:
        command = [sys.executable, "-m", "benchmarks.reliability.victim", *arguments]
        if shell:
            command = ["unshare", "--mount", "sh", "-c", f'{shell} && exec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._errors: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._listeners = [
            threading.Thread(target=_listen, args=(self.process.stdout, self._lines.put)),
            threading.Thread(target=_listen, args=(self.process.stderr, self._errors.append)),
        ]
        for listener in self._listeners:
            listener.start()
        self.files: set[Path] = set()

    def __enter__(self) -> Victim:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill_all()

    def read_line(self, patience_s: float = PATIENCE_S) -> str:
        """What it says next; "" when it has ended, or said nothing for a long time."""
        began = time.monotonic()
        while time.monotonic() - began < patience_s:
            was_over = self.is_over()
            with suppress(queue.Empty):
                return self._lines.get(timeout=0.01)
            if was_over:
                break
        return ""

    def await_ready(self) -> psutil.Process:
        """The process that it names: the one that makes its microbatches."""
        word, _, pid = self.read_line(START_PATIENCE_S).partition(" ")
        if word != "ready":
            raise RuntimeError(f"the trainer does not even start: {self.stderr()}")
        self.files = {file for process in self.everybody() for file in _shared_files(process)}
        return psutil.Process(int(pid))

    def tell(self) -> None:
        """It waits for a line: here it is."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def everybody(self) -> list[psutil.Process]:
        """Itself and its descendants, at this moment."""
        trainer = psutil.Process(self.process.pid)
        return [trainer, *trainer.children(recursive=True)]

    def is_over(self) -> bool:
        """Whether the trainer itself has ended."""
        return self.process.poll() is not None

    def num_files_left(self) -> int:
        """Files in /dev/shm that it had when it was ready, and that are still there."""
        return sum(file.exists() for file in self.files)

    def stderr(self) -> str:
        """All it has written there; ends what is left of it."""
        self._kill_all()
        return "\n".join(self._errors)

    def _kill_all(self) -> None:
        for process in psutil.process_iter():
            with suppress(OSError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == self.process.pid:
                    self.files |= _shared_files(process)
                    process.kill()
        self.process.wait()
        for listener in self._listeners:
            listener.join()
        assert self.process.stdin is not None
        self.process.stdin.close()
        for file in self.files:
            file.unlink(missing_ok=True)


def _listen(stream: IO[str], take: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            take(line.strip())


def _shared_files(process: psutil.Process) -> set[Path]:
    with suppress(psutil.NoSuchProcess):
        paths = {mapping.path for mapping in process.memory_maps()}
        return {Path(path) for path in paths if re.fullmatch(r"/dev/shm/[^ ]+", path)}
    return set()
