"""Memory that a loader adds to the processes of a training run."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.harness.descendants import descendants

_sharers: list[int] = []


def shared_with(pid: int) -> None:
    """Tell that this process was forked from ``pid``, which still holds the same pages.

    They are counted in full only if all who share them are asked.
    """
    _sharers.append(pid)


def _proportional_mib(pid: int) -> float:
    """Its share (PSS) of every page that it has mapped, shared memory included."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def memory_mib() -> float:
    """Of this process and everything below it, in MiB; pages that they share count once."""
    return sum(map(_proportional_mib, {os.getpid(), *_sharers, *descendants()}))
