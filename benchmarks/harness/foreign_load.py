"""How busy the rest of the machine was during a measurement: is its wall time worth anything?"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def _busy_s() -> float:
    """CPU seconds of everything on this machine since it started, stolen time included."""
    user, nice, system, _idle, _wait, irq, softirq, stolen = map(
        int, Path("/proc/stat").read_text().split(None, 9)[1:9]
    )
    return (user + nice + system + irq + softirq + stolen) / _TICKS_PER_S


def _own_s() -> float:
    """CPU seconds of this process and of all its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class ForeignLoad:
    """Counts from its creation on; ask when the children that were started since have ended."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self._start_foreign_s = _busy_s() - _own_s()

    @property
    def elapsed_s(self) -> float:
        """Seconds since its creation."""
        return time.perf_counter() - self._start_s

    def cores(self) -> float:
        """Mean number of cores that other programs kept busy, never below 0."""
        foreign_s = _busy_s() - _own_s() - self._start_foreign_s
        return max(0.0, foreign_s / self.elapsed_s)
