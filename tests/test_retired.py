"""The memory of a loader that is done goes back, also while a process that was forked maps it."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from fkat.data import ShmDataLoader
from tests.blobs import blobs


def small() -> DataLoader:
    return DataLoader(range(50), batch_size=1)


def take(loader, num_microbatches: int) -> None:
    for _ in range(num_microbatches):
        next(loader)


def forked(factory) -> ShmDataLoader:
    return ShmDataLoader(0, factory, 4, multiprocessing_context="fork")


@pytest.fixture
def open_ring():
    """A descriptor of a loader's ring that stays open when the loader is done."""
    fds = []

    def opened(loader) -> int:
        fds.append(os.dup(loader._feed._feeds[0]._ring.fd))
        return fds[-1]

    yield opened
    for fd in fds:
        os.close(fd)


def nbytes_behind(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def maps_ring(pid: int, fd: int) -> bool:
    """Whether a process maps the ring that this process has open there."""
    inode = str(os.fstat(fd).st_ino)
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return any(line.split()[4] == inode for line in maps if "memfd:fkat" in line)


def tear_down(box) -> None:
    box[0].teardown()


def exhaust(box) -> None:
    assert sum(1 for _ in box[0]) == 12
    box.clear()


def collect(box) -> None:
    box.clear()
    gc.collect()


def kill_producer(box) -> None:
    """Then another producer, with a ring of its own, takes its place."""
    os.kill(box[0]._feed.pids[0], signal.SIGKILL)
    assert [int(next(box[0])[0]) for _ in range(8)] == list(range(2, 10))


@pytest.mark.filterwarnings("ignore:more than 8 microbatches")
@pytest.mark.parametrize("end", [tear_down, exhaust, collect, kill_producer])
def test_the_memory_of_a_loader_goes_back_while_a_younger_one_maps_it(end, open_ring):
    box = [forked(blobs)]
    take(box[0], 1)
    ring = open_ring(box[0])
    younger = forked(small)
    take(younger, 1)
    take(box[0], 1)
    assert nbytes_behind(ring) > 16 << 20
    end(box)
    # The header and the index, before the slots: some pages, or a huge one.
    assert nbytes_behind(ring) <= 2 << 20
    assert maps_ring(younger._feed.pids[0], ring)
    assert [int(next(younger)) for _ in range(20)] == list(range(1, 21))


@pytest.mark.parametrize("drop_in", ["this thread", "another"])
def test_what_is_kept_of_a_loader_that_is_done_goes_back_when_it_is_dropped(drop_in, open_ring):
    older = forked(blobs)
    take(older, 1)
    younger = forked(small)
    take(younger, 1)
    ring, kept = open_ring(older), [next(older), next(older)]
    older.teardown()
    nbytes = [nbytes_behind(ring)]
    for number in (1, 2):
        assert (kept[0] == number).all()
        if drop_in == "another":
            dropper = threading.Thread(target=kept.pop, args=(0,))
            dropper.start()
            dropper.join()
        else:
            kept.pop(0)
        nbytes.append(nbytes_behind(ring))
    assert [(n + (1 << 20)) >> 24 for n in nbytes] == [2, 1, 0]  # of 16 MiB each, and the header
    assert [int(next(younger)) for _ in range(20)] == list(range(1, 21))


EXIT = """
from fkat.data import ShmDataLoader, _core

_core.Ring.retire = lambda ring: print("retired")
loaders = [ShmDataLoader(0, lambda: range(9), multiprocessing_context="fork") for _ in range(2)]
for loader in loaders:
    next(loader)
loaders[0].teardown()
print("torn down")
"""


def test_the_end_of_the_interpreter_gives_no_memory_back_by_hand(start_trainer):
    assert start_trainer(EXIT).finish() == (0, "retired\ntorn down\n", "")
