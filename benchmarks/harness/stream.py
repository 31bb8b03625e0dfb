"""Timed stretches of any loader: warm-up with full checks, then repeats with spot checks."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.harness.clocks import Stopwatch
from benchmarks.harness.memory import memory_mib
from benchmarks.harness.question import Column, Effort, Measurement, WrongPayloadError

OpenLoader = Callable[[], AbstractContextManager[Iterable[Any]]]
Check = Callable[[int, Any], None]

CPU_AND_WAIT = (
    Column("trainer CPU us", "trainer_cpu_us", "number"),
    Column("workers CPU us", "workers_cpu_us", "number"),
    Column("p99 wait us", "p99_wait_us", "number"),
    Column("memory MiB", "added_mib", "number"),
)
"""The usual columns of what `timed_passes` measures beside the wall time."""

_STRETCH_S = 0.2
"""A timed stretch is about so long; longer only if it would have fewer than the least items."""

_LONG_STRETCH_S = 0.3
"""The longest that a stretch may become for the sake of the least items."""

_WARM_UP_ITEMS = 8
"""After the first: enough that every slot and segment of every loader here was written once."""

_LONG_WARM_UP_S = 0.5
"""A loader that is so slow has no use for more warm-up: at the least as many as are prefetched."""

NUM_PREFETCHES = 4
"""Microbatches that each worker of every loader is ahead."""

_LEAD = 4
_LEAST_ITEMS = 12
_VERY_LEAST_ITEMS = 1


def _numbered(
    loader: Iterable[Any], num_items: int | None
) -> Generator[tuple[int, Any], None, None]:
    """Epoch after epoch, each item with its number in the epoch."""
    while True:
        number = -1
        for number, item in enumerate(loader):
            yield number, item
        if number + 1 != (num_items or number + 1) or number < 0:
            raise WrongPayloadError(f"{number + 1} microbatches arrived, {num_items} were sent")


def _warm_up(items: Iterator[tuple[int, Any]], check: Check, effort: Effort) -> None:
    """Compare items in full until every slot, queue and pool of the loader has been used."""
    start, count = time.perf_counter(), 0
    while True:
        check(*next(items))
        count += 1
        taken_s = time.perf_counter() - start
        enough = NUM_PREFETCHES if taken_s > _LONG_WARM_UP_S else _WARM_UP_ITEMS
        if count >= enough and taken_s > _STRETCH_S / effort.shorten:
            return


def stretch_length(
    items: Iterator[tuple[int, Any]], check: Check, effort: Effort, num_at_once: int
) -> int:
    """Items of a timed stretch, from the time that a short one takes; as many of each worker.

    What several workers (or threads) make comes in bursts, one of each: a stretch of three that
    begins behind one would count but one burst, the next one two.
    """
    start, count = time.perf_counter(), 0
    while time.perf_counter() < start + 0.2 * _STRETCH_S / effort.shorten:
        check(*next(items))
        count += 1
    item_s = (time.perf_counter() - start) / count
    budget = _STRETCH_S / effort.shorten / item_s
    many = max(_LEAST_ITEMS, 4 * num_at_once * NUM_PREFETCHES)
    generous = min(many, _LONG_STRETCH_S / effort.shorten / item_s)
    return -(-int(max(budget, generous, _VERY_LEAST_ITEMS)) // num_at_once) * num_at_once


def take_what_is_ready(
    items: Iterator[tuple[int, Any]], check: Check, effort: Effort, num_ahead: int
) -> None:
    """Take microbatches that were made while nobody asked, lest they count as made in no time.

    Those cost no waiting: after so long a wait there are none left, however few were taken.
    """
    end = time.perf_counter() + _STRETCH_S / effort.shorten
    for _ in range(num_ahead + _LEAD):
        check(*next(items))
        if time.perf_counter() > end:
            break


def percentile_99(values: list[float]) -> float:
    """The value that 99 % do not exceed; the largest of fewer than 100."""
    return sorted(values)[int(0.99 * (len(values) - 1) + 0.5)]


def _timed(items: Iterator[tuple[int, Any]], length: int, check: Check) -> dict[str, float]:
    waits: list[float] = []
    loader_cpu_s = 0.0
    clock, cpu_clock = time.perf_counter, time.thread_time
    watch = Stopwatch()
    start_cpu_s = cpu_clock()
    for _ in range(length):
        asked = clock()
        asked_cpu_s = cpu_clock()
        number, item = next(items)  # and lets go of the one before
        loader_cpu_s += cpu_clock() - asked_cpu_s
        waits.append(clock() - asked)
        check(number, item)
    own_cpu_s = cpu_clock() - start_cpu_s - loader_cpu_s
    taken = watch.stop()
    return {
        "wall_us": 1e6 * taken.wall_s / length,
        "trainer_cpu_us": 1e6 * (taken.trainer_cpu_s - own_cpu_s) / length,
        "workers_cpu_us": 1e6 * taken.workers_cpu_s / length,
        "p99_wait_us": 1e6 * percentile_99(waits),
    }


def timed_passes(
    open_loader: OpenLoader,
    num_items: int | None,
    effort: Effort,
    check_all: Check,
    check_spot: Check,
    num_at_once: int = 1,
) -> Measurement:
    """Measure a loader in its steady state.

    The loader is read as one long stream, epoch after epoch: a warm-up, in which every item is
    compared in full, then ``effort.repeats`` timed stretches of a fifth of a second. What is to
    show nothing of the turn of an epoch needs an epoch that does not end meanwhile.

    Args:
        open_loader: Gives a context manager for the loader, which ends its processes.
        num_items: Microbatches of an epoch; None if it has more than anybody reads.
        effort: Number of stretches, and how much shorter everything is to be.
        check_all: Called with (number in the epoch, item) in the warm-up; raises
            `WrongPayloadError`.
        check_spot: The same for a timed item. Its time is part of the stretch: it has to be short
            and the same for every loader. Its CPU time, and that of this loop, is not the loader's,
            and is left out: they are some microseconds in a fast loop, but 20 to 70 behind a wait
            that emptied the caches.
        num_at_once: How many microbatches are made at the same time: mostly one by each worker,
            which is ahead by a few. What is ready at most is taken before the first stretch, lest
            it count as made in no time, and a stretch has at least four times as many, unless that
            takes too long.

    Returns:
        ``first_s``: from opening the loader to the first item. ``added_mib``: memory of all
        processes above what was there before the loader, the larger of two samples, before and
        after the stretches. One value per stretch of, per item, ``wall_us``, ``trainer_cpu_us``,
        ``workers_cpu_us``, and of ``p99_wait_us``, the 99th percentile of the time in ``next()``.

    Raises:
        WrongPayloadError: Contents or number of microbatches are not what was sent.
    """
    before_mib = memory_mib()
    start = time.perf_counter()
    with open_loader() as loader:
        items = _numbered(loader, num_items)
        first = next(items)
        first_s = time.perf_counter() - start
        check_all(*first)
        del first  # some loaders wait for every item to be given back, in order
        _warm_up(items, check_all, effort)
        length = stretch_length(items, check_spot, effort, num_at_once)
        gc.collect()
        gc.freeze()
        samples = [memory_mib() - before_mib]
        take_what_is_ready(items, check_spot, effort, num_at_once * NUM_PREFETCHES)
        stretches = [_timed(items, length, check_spot) for _ in range(effort.repeats)]
        samples.append(memory_mib() - before_mib)
        items.close()
    metrics = {name: [each[name] for each in stretches] for name in stretches[0]}
    return {**metrics, "first_s": [first_s], "added_mib": [max(0.0, *samples)]}
