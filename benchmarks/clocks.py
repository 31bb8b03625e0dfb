"""Wall and CPU clocks of the trainer process and of the processes it started."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """All clocks at one moment, in seconds."""

    wall_s: float
    trainer_cpu_s: float
    producer_cpu_s: float


def child_pids() -> list[int]:
    """The processes that this one started; to be asked before a timed stretch, not in it."""
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def _process_cpu_s(pid: int) -> float:
    """CPU time of all threads of a live process, to the nanosecond.

    The clock id is the one that clock_getcpuclockid(3) returns on Linux; psutil's and /proc's
    figures come in ticks of 10 ms, which is more than a whole pass of the small cases.
    """
    return time.clock_gettime((~pid << 3) | 2)


def read_clocks(pids: Sequence[int]) -> Reading:
    """Read every clock, those of the processes ``pids`` included; costs microseconds."""
    producer_cpu_s = sum(_process_cpu_s(pid) for pid in pids)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Reading(time.perf_counter(), usage.ru_utime + usage.ru_stime, producer_cpu_s)
