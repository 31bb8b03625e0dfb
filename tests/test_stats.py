"""The loader measures what it delivers and how long next() waited."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import threading
import time

import pytest
import torch

from fkat.data import ShardedDataLoader, ShmDataLoader
from fkat.data.shm import LoaderStats

BOTH = pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
FORK = multiprocessing.get_context("fork")
SLOW_S = 0.05


def quick(count, nbytes):
    for _ in range(count):
        yield torch.zeros(nbytes, dtype=torch.uint8)


def slow(count):
    for i in range(count):
        time.sleep(SLOW_S)
        yield i


def gated(ready, count):
    yield from range(count)
    ready.set()


def new_loader(count=10, nbytes=10_000, **options):
    return ShmDataLoader(0, functools.partial(quick, count, nbytes), 3, **options)


@BOTH
def test_nothing_is_counted_before_the_first_microbatch(multiprocessing):
    assert new_loader(multiprocessing=multiprocessing).stats() == LoaderStats(0, 0, 0, 0.0)


@BOTH
def test_microbatches_are_counted_over_epochs(multiprocessing):
    loader = new_loader(multiprocessing=multiprocessing)
    for epoch in range(1, 4):
        for _ in loader:
            pass
        assert loader.stats().num_microbatches == 10 * epoch


@BOTH
def test_only_what_was_delivered_counts(multiprocessing):
    loader = new_loader(multiprocessing=multiprocessing)
    for i in range(1, 5):
        next(loader)
        assert loader.stats().num_microbatches == i
    iter(loader)  # drops what was prefetched
    next(loader)
    assert loader.stats().num_microbatches == 5


def test_bytes_are_those_of_the_tensors_and_little_more():
    loader = new_loader(count=10, nbytes=1 << 20)
    for _ in loader:
        pass
    assert 10 << 20 <= loader.stats().nbytes < 11 << 20


def test_no_bytes_are_counted_in_process():
    loader = new_loader(multiprocessing=False)
    next(loader)
    assert loader.stats().nbytes == 0


@BOTH
def test_no_copies_are_counted_when_nothing_is_kept(multiprocessing):
    loader = new_loader(100, multiprocessing=multiprocessing)
    for _ in loader:
        pass
    assert loader.stats().num_copies == 0


@pytest.mark.filterwarnings("ignore:more than 8 microbatches")
def test_copies_are_counted_when_everything_is_kept():
    loader = new_loader(10)
    everything = list(loader)
    assert loader.stats().num_copies == len(everything) - 8


@BOTH
def test_stall_is_at_least_what_a_slow_dataset_takes(multiprocessing):
    loader = ShmDataLoader(0, functools.partial(slow, 4), 0, multiprocessing=multiprocessing)
    seen = []
    for _ in loader:
        seen.append(loader.stats().stall_s)
    assert all(later - earlier > SLOW_S / 2 for earlier, later in itertools.pairwise(seen))
    assert seen[-1] > 4 * SLOW_S * 0.8


@BOTH
def test_stall_is_never_more_than_the_time_in_next(multiprocessing):
    loader = ShmDataLoader(0, functools.partial(slow, 3), 0, multiprocessing=multiprocessing)
    start = time.perf_counter()
    for _ in loader:
        pass
    assert 0 < loader.stats().stall_s <= time.perf_counter() - start


@pytest.mark.alone
def test_the_time_between_two_calls_of_next_is_no_stall():
    ready = FORK.Event()
    loader = ShmDataLoader(0, functools.partial(gated, ready, 5), -1, multiprocessing_context=FORK)
    next(loader)
    assert ready.wait(60)  # the others are published: all but the end of the epoch
    before = loader.stats().stall_s
    for _ in range(4):
        next(loader)
    assert loader.stats().stall_s == pytest.approx(before, abs=1e-3)


def test_stats_can_be_read_while_another_thread_waits():
    gate = FORK.Event()

    def factory():
        gate.wait()
        yield 1

    loader = ShmDataLoader(0, factory, 0, multiprocessing_context=FORK)
    reader = threading.Thread(target=next, args=(loader,))
    reader.start()
    assert loader.stats().num_microbatches == 0
    gate.set()
    reader.join()
    assert loader.stats().num_microbatches == 1


@BOTH
def test_a_new_producer_counts_from_zero(multiprocessing):
    loader = new_loader(multiprocessing=multiprocessing)
    next(loader)
    loader.teardown()
    assert loader.stats() == LoaderStats()


MIB = 1 << 20


def test_the_memory_behind_the_ring_is_told():
    loader = new_loader(count=30, nbytes=MIB, memory_budget_nbytes=8 * MIB)
    kept = [next(loader) for _ in range(3)]
    stats = loader.stats()
    assert stats.budget_nbytes == 8 * MIB
    assert len(kept) * MIB < stats.ring_nbytes < stats.budget_nbytes + len(kept) * 2 * MIB


def sharded(shard):
    yield from quick(3, MIB)


def test_the_memory_of_several_producers_is_that_of_all():
    loader = ShardedDataLoader(
        0, ["a", "b", "c", "d"], sharded, 1, 2, memory_budget_nbytes=16 * MIB
    )
    next(loader)
    alone = new_loader(memory_budget_nbytes=16 * MIB)
    next(alone)
    stats = loader.stats()
    assert stats.budget_nbytes == 16 * MIB
    assert stats.cgroup_nbytes == alone.stats().cgroup_nbytes  # one limit for all of them
    assert stats.ring_nbytes > MIB


def die_once(flag):
    yield from quick(2, MIB)
    if not flag.exists():
        flag.touch()
        os._exit(1)
    yield from quick(2, MIB)


@pytest.mark.filterwarnings("ignore")
def test_the_memory_of_a_dead_producer_is_not_counted(tmp_path):
    factory = functools.partial(die_once, tmp_path / "died")
    loader = ShmDataLoader(0, factory, 0, memory_budget_nbytes=8 * MIB)
    assert len(list(loader)) == 4
    stats = loader.stats()
    assert stats.num_restarts == 1
    assert stats.budget_nbytes == 8 * MIB


def test_no_memory_is_told_without_a_ring():
    loader = new_loader(multiprocessing=False)
    next(loader)
    stats = loader.stats()
    assert (stats.ring_nbytes, stats.budget_nbytes, stats.cgroup_nbytes) == (0, 0, 0)
