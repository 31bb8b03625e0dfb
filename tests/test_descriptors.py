"""Descriptors, threads, mappings and shared memory: as many after any number of microbatches."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import multiprocessing.connection
import os
import select
from collections import Counter
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data import ShardedDataLoader, ShmDataLoader
from tests.blobs import blobs

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(autouse=True)
def without_garbage():
    """A forked producer inherits the garbage of earlier tests, and would close it as we count."""
    gc.collect()


class Small(Dataset):
    """Small tensors that hold their own number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, index])


def small(count: int, num_workers: int = 0) -> DataLoader:
    return DataLoader(Small(count), batch_size=None, num_workers=num_workers)


def shard(count: int, name: str) -> DataLoader:
    return DataLoader(Small(count), batch_size=None)


def open_in(process: psutil.Process) -> list[str]:
    """What each of its descriptors is open on, without numbers that differ from run to run."""
    links = []
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            links.append(str(link.readlink()).split(":[")[0])
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return sorted(links)


def maps_of(process: psutil.Process) -> int:
    """How many mappings of a ring it has."""
    return Path(f"/proc/{process.pid}/maps").read_text().count("/memfd:fkat")


def used_by(process: psutil.Process) -> tuple[list[str], int, int]:
    """Its descriptors, mappings of rings, and threads."""
    return open_in(process), maps_of(process), process.num_threads()


def here() -> psutil.Process:
    return psutil.Process()


def producers() -> list[psutil.Process]:
    """The producers of this process, which are its children and have a ring."""
    return sorted(
        (child for child in here().children(recursive=True) if maps_of(child)),
        key=lambda process: process.pid,
    )


def family() -> list[tuple[list[str], int, int]]:
    """What this process and its producers use."""
    return [used_by(process) for process in (here(), *producers())]


def take(loader, num_microbatches: int) -> None:
    for _ in range(num_microbatches):
        next(loader)


def count(loader) -> int:
    return sum(1 for _ in loader)


@pytest.mark.parametrize("method", METHODS)
def test_ten_thousand_microbatches_use_what_two_hundred_use(method):
    factory = functools.partial(small, 11_000)
    loader = ShmDataLoader(0, factory, 8, multiprocessing_context=method)
    take(loader, 200)
    before = family()
    assert len(before) == 2
    assert before[0][1] == 1  # one mapping, whatever is delivered
    take(loader, 10_000)
    assert family() == before
    assert int(next(loader)[0]) == 10_200


def test_twenty_epochs_use_what_one_uses():
    loader = ShmDataLoader(0, functools.partial(small, 50), 4)
    assert count(loader) == 50
    before, pids = family(), [process.pid for process in producers()]
    for _ in range(20):
        assert [int(item[0]) for item in loader] == list(range(50))
    assert family() == before
    assert [process.pid for process in producers()] == pids


def test_epochs_left_early_use_what_the_first_uses():
    loader = ShmDataLoader(0, functools.partial(small, 50), 4)
    take(loader, 3)
    before = family()
    for _ in range(20):
        take(iter(loader), 3)
    assert family() == before


@pytest.mark.parametrize("num_producers", [1, 3])
def test_twenty_epochs_of_shards_use_what_one_uses(num_producers):
    shards = [str(number) for number in range(7)]
    loader = ShardedDataLoader(0, shards, functools.partial(shard, 9), num_producers)
    assert count(loader) == 63
    before = family()
    assert len(before) == 1 + num_producers
    for _ in range(20):
        assert count(loader) == 63
    assert family() == before


def test_each_loader_uses_as_many_descriptors_as_any_other():
    loaders, used = [], [Counter(open_in(here()))]
    for _ in range(4):
        loaders.append(ShmDataLoader(0, functools.partial(small, 50), 4))
        next(loaders[-1])
        used.append(Counter(open_in(here())))
    added = [later - earlier for earlier, later in pairwise(used)]
    assert added == [added[0]] * 4
    # The ring, the eventfd at which the trainer sleeps, two pidfds of the producer (one to sleep
    # at, too, one to ask for a stack), the stack's pipe, and multiprocessing's sentinel, a pair.
    assert sum(added[0].values()) <= 7, added


def test_microbatches_that_are_kept_use_no_descriptors():
    loader = ShmDataLoader(0, functools.partial(small, 50), 4)
    kept = [next(loader)]
    before = used_by(here())
    kept += [next(loader) for _ in range(7)]
    assert used_by(here()) == before
    assert [int(item[1]) for item in kept] == list(range(8))


def ring_nbytes() -> int:
    """Memory behind the rings that this process has open."""
    total = 0
    for link in Path("/proc/self/fd").iterdir():
        if "memfd:fkat" in (str(link.readlink()) if os.path.lexists(link) else ""):
            total += os.fstat(int(link.name)).st_blocks * 512
    return total


@pytest.mark.alone  # whose a file in /dev/shm is cannot be told
@pytest.mark.parametrize("end", ["exhausted", "teardown", "dropped in the middle", "killed"])
def test_twenty_loaders_one_after_another_leave_nothing(end):
    def use() -> None:
        loader = ShmDataLoader(0, functools.partial(small, 30), 4)
        if end == "exhausted":
            assert count(loader) == 30
            return
        take(loader, 5)
        if end == "killed":
            (producer,) = producers()
            producer.kill()
            return
        if end == "teardown":
            loader.teardown()

    use()  # what multiprocessing itself opens once
    gc.collect()
    before, files = used_by(here()), sorted(Path("/dev/shm").iterdir())
    for _ in range(20):
        use()
    gc.collect()
    assert used_by(here()) == before
    assert sorted(Path("/dev/shm").iterdir()) == files
    assert ring_nbytes() == 0
    assert producers() == []


def test_twenty_states_loaded_into_one_loader_leave_one_producer():
    loader = ShmDataLoader(0, functools.partial(small, 30), 4)
    take(loader, 5)
    before = family()
    for _ in range(20):
        loader.load_state_dict(loader.state_dict())
        take(loader, 1)
    assert family() == before
    assert int(next(loader)[0]) == 25


def shmem_nbytes() -> int:
    """Shared memory in use on this machine, by whomever."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Shmem:"))


def test_the_machine_has_its_shared_memory_back(wait_until):
    largest = 0
    before = shmem_nbytes()
    for _ in range(3):
        loader = ShmDataLoader(0, blobs, 4)
        for _ in loader:
            largest = max(largest, shmem_nbytes() - before)
        del loader, _
        gc.collect()
    assert largest > 32 << 20
    # Others use shared memory, too: wait for a moment in which they do not use much.
    wait_until(lambda: shmem_nbytes() - before < 16 << 20)
    assert ring_nbytes() == 0


def end_when_nobody_waits(loader, wait_until):
    """Tear it down; the producer exits a moment after its time to do so is over."""
    process = loader._feed._feeds[0]._process._process
    pidfd, join = os.pidfd_open(process.pid), process.join

    def join_too_early(timeout=None):
        if timeout is None:
            return join()
        multiprocessing.connection.wait([process.sentinel, pidfd])
        wait_until(lambda: select.select([pidfd], [], [], 0)[0])
        os.close(pidfd)

    process.join = join_too_early
    loader.teardown()


@pytest.mark.parametrize("method", METHODS)
def test_a_producer_that_ends_when_nobody_waits_any_longer_is_forgotten(method, wait_until):
    open_after = []
    for forget in (multiprocessing.active_children, gc.collect):  # the first does it by the way
        loader = ShmDataLoader(0, functools.partial(small, 3), multiprocessing_context=method)
        next(loader)
        end_when_nobody_waits(loader, wait_until)
        del loader
        forget()
        gc.collect()
        open_after.append(open_in(here()))
    assert open_after[0] == open_after[1]
