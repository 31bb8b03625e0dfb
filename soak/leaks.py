"""What this process, and those that it started, have in use."""

from __future__ import annotations

import gc
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from soak import left
from soak.counts import Counts

# For processes to notice that their trainer was killed, also those that still import torch, and
# for the kernel to take them and their memory down.
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Usage:
    """What is in use.

    Attributes:
        processes: Pids of this session but for zombies; a producer's orphans stay in it, too.
        descriptors: What each of this process is open on.
        shm_files: Names in /dev/shm, but for semaphores that others have given a name.
        ring_nbytes: Memory behind the rings that any process of this session has mapped.
    """

    processes: frozenset[int]
    descriptors: tuple[str, ...]
    shm_files: frozenset[str]
    ring_nbytes: int

    @staticmethod
    def now() -> Usage:
        """At this moment."""
        processes = _session()
        return Usage(
            processes,
            tuple(sorted(_target(link).split(":[")[0] for link in _fds("self"))),
            left.shm_files(),
            sum(_rings(processes).values()),
        )

    def has_grown_since(self, before: Usage) -> bool:
        """Whether there is something that was not there before."""
        return (
            not self.processes <= before.processes
            or len(self.descriptors) > len(before.descriptors)
            or not self.shm_files <= before.shm_files
            or self.ring_nbytes > before.ring_nbytes
        )


def look_for_leaks(before: Usage, counts: Counts, patience_s: float = _PATIENCE_S) -> None:
    """Count what is in use and was not ``before``, once it has had time to go away.

    Files that PyTorch or multiprocessing have left are counted as such, and removed.
    """
    gc.collect()
    give_up = time.monotonic() + patience_s
    while (usage := _without_what_others_left(before, counts)).has_grown_since(before):
        if time.monotonic() > give_up:
            break
        time.sleep(0.02)
    counts.add("looks for leaks")
    if pids := usage.processes - before.processes:
        counts.fail("processes leaked", str([_describe(pid) for pid in pids]), len(pids))
    if (grown := len(usage.descriptors) - len(before.descriptors)) > 0:
        counts.fail("descriptors leaked", str(usage.descriptors), grown)
    if (nbytes := usage.ring_nbytes - before.ring_nbytes) > 0:
        counts.fail("bytes of shared memory leaked", str(_rings(usage.processes)), nbytes)
    if files := usage.shm_files - before.shm_files:
        counts.fail("files in /dev/shm leaked", str(sorted(files)), len(files))


def continue_stopped() -> None:
    """Continue what a trainer had stopped when it was killed: nobody else would."""
    for pid in _session():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_STOPPED:
                process.resume()


def _without_what_others_left(before: Usage, counts: Counts) -> Usage:
    usage = Usage.now()
    if not usage.processes <= before.processes:
        return usage  # somebody may yet unlink their files
    files = usage.shm_files - before.shm_files
    tensors = set(filter(left.is_tensor_of_dead_worker, files))
    semaphores = set(filter(left.is_dead_semaphore, files))
    counts.add("files that torch left", len(tensors))
    counts.add("semaphores that multiprocessing left", len(semaphores))
    left.unlink(tensors | semaphores)
    return replace(usage, shm_files=usage.shm_files - tensors - semaphores)


def _session() -> frozenset[int]:
    own = os.getsid(0)
    return frozenset(
        process.pid
        for process in psutil.process_iter(["status"])
        if _session_of(process.pid) == own and process.info["status"] != psutil.STATUS_ZOMBIE
    )


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:  # gone
        return -1


def _fds(pid: int | str) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # gone
        return []


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # closed meanwhile
        return ""


def _rings(processes: frozenset[int]) -> dict[int, int]:
    """Bytes behind each ring, by its inode number."""
    found = {}
    for pid in processes:
        for link in _fds(pid):
            if re.match("/memfd:fkat", _target(link)):
                try:
                    status = link.stat()
                except OSError:
                    continue
                found[status.st_ino] = status.st_blocks * 512
    return found


def _describe(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return f"{pid} (parent {process.ppid()}, {process.status()}): {process.cmdline()}"
    except psutil.NoSuchProcess:
        return str(pid)
