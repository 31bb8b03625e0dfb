"""Bandwidth into the GPU: of our copies alone, of what ``next()`` delivers, and the best there is.

*Our copies* and *pinned copies* are timed by the GPU itself (CUPTI, through torch's profiler), each
copy by its own duration, in turns: so neither the producer nor the trainer's thread is in that
figure. *Delivered* is the rate of ``next()`` from a ring that was filled beforehand, from an event
behind the third microbatch (those before it were on their way already) to one behind the last: the
trainer's thread is in that one, and the producer's memcpy as far as the two share the host's
memory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.device.cases import copy_case, in_process
from benchmarks.device.clocks import PinnedCopies, timing_event
from benchmarks.sources.ready import pool_of
from fkat.data import ShmDataLoader

SLOWEST_PRODUCER = 2 << 30
"""Bytes a second that any producer fills the ring with: how long to wait until it is full."""

NUM_LEADING = 3
"""The one that is delivered next, and the two that the loader has on their way by default."""


def copies_in(work: Callable[[], object]) -> tuple[float, set[str]]:
    """GiB/s of the copies to the GPU that ``work`` causes while one runs; the kinds of memory."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    copies = [event for event in events if event.get("name", "").startswith("Memcpy HtoD")]
    # Bytes as the driver was asked for, microseconds as the copy engine took.
    nbytes = sum(int(event["args"]["bytes"]) for event in copies)
    taken_us = sum(float(event["dur"]) for event in copies)
    return _gib_per_s(nbytes, taken_us), {event["name"] for event in copies}


def depth_of(nbytes: int) -> int:
    """Microbatches to prefetch: many small ones, of large ones 1 GiB, but 8 at least."""
    return min(64, max(8, (1 << 30) // nbytes))


def measure_copies(nbytes: int, num_passes: int, device: torch.device) -> dict[str, Any]:
    """GiB/s of a microbatch of one tensor, the three ways."""
    case, depth = copy_case(nbytes), depth_of(nbytes)
    pool_of(case)  # before the loader forks: the producer starts with warm memory
    num_slots = depth + 9
    count = 3 * num_slots + (2 * num_passes + 1) * depth
    loader: Any = ShmDataLoader(
        0,
        partial(in_process, case, 0, count),
        depth,
        device=device,
        memory_budget_nbytes=2 * num_slots * (nbytes + (1 << 20)),
    )
    pinned = PinnedCopies(nbytes, device)
    pinned(8)
    figures: dict[str, list[float]] = {"ours": [], "pinned": [], "delivered": []}
    kinds: set[str] = set()
    try:
        _take(loader, 3 * num_slots)  # every slot has been used, and is page-locked
        for _ in range(num_passes):
            _let_it_fill(depth, nbytes)
            ours, names = copies_in(partial(_take, loader, depth))
            kinds |= names
            figures["ours"].append(ours)
            figures["pinned"].append(copies_in(partial(pinned, depth))[0])
            _let_it_fill(depth, nbytes)
            taken_us = _taking_us(loader, depth)
            figures["delivered"].append(_gib_per_s(nbytes * (depth - NUM_LEADING), taken_us))
        stats = loader.stats()
    finally:
        loader.teardown()
    return {
        "gib_per_s": figures,
        "kinds_of_copies": sorted(kinds),
        "pinned_nbytes": stats.pinned_nbytes,
        "pinning_s": stats.pinning_s,
        "stall_s": stats.stall_s,
    }


def _take(loader: Any, count: int) -> None:
    for _ in range(count):
        next(loader)


def _let_it_fill(depth: int, nbytes: int) -> None:
    torch.cuda.synchronize()
    time.sleep(0.2 + depth * nbytes / SLOWEST_PRODUCER)


def _taking_us(loader: Any, count: int) -> float:
    """Microseconds on the GPU from the last of the leading ones to the last of ``count``."""
    begin, end = timing_event(), timing_event()
    _take(loader, NUM_LEADING)
    begin.record()
    _take(loader, count - NUM_LEADING)
    end.record()
    end.synchronize()
    return 1e3 * float(begin.elapsed_time(end))


def _gib_per_s(nbytes: int, taken_us: float) -> float:
    return nbytes / 2**30 / (taken_us / 1e6) if taken_us > 0 else 0.0
