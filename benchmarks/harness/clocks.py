"""Wall and CPU clocks of the trainer process and of everything that it started."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

from benchmarks.harness.descendants import descendants


@dataclass(frozen=True)
class Taken:
    """What a stretch of the program took, in seconds."""

    wall_s: float
    trainer_cpu_s: float
    workers_cpu_s: float


def _cpu_s_of(pid: int) -> float:
    """CPU time of all threads of a live process, to the nanosecond.

    The clock id is the one that clock_getcpuclockid(3) returns on Linux; psutil's and /proc's
    figures come in ticks of 10 ms, which is more than many a stretch takes.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it ended since it was listed
        return 0.0


def _workers_cpu_s() -> float:
    """CPU time of the processes below this one: those that live, and those that were waited for."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime + sum(map(_cpu_s_of, descendants()))


class Stopwatch:
    """Runs from its creation on. Looking up the workers is outside of the time it shows."""

    def __init__(self) -> None:
        self._workers_cpu_s = _workers_cpu_s()
        self._trainer_cpu_s = time.process_time()
        self._wall_s = time.perf_counter()

    def stop(self) -> Taken:
        """What was taken since the creation."""
        wall_s = time.perf_counter() - self._wall_s
        trainer_cpu_s = time.process_time() - self._trainer_cpu_s
        # Never below 0: of a worker that ended and was waited for by nobody, the time is lost.
        return Taken(wall_s, trainer_cpu_s, max(0.0, _workers_cpu_s() - self._workers_cpu_s))
