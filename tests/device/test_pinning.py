"""Slots are page-locked as they come into use, and given back when the producer needs memory."""

from __future__ import annotations

import functools
import gc
import logging
import os
from pathlib import Path

import pytest
import torch

from fkat.data import ShmDataLoader, _core

CUDA = torch.device("cuda")
UNIT = 1 << 18
MAPS = Path("/proc/self/maps")


def growing(sizes):
    for i, nbytes in enumerate(sizes):
        yield torch.full((nbytes,), i % 251, dtype=torch.uint8)


def new_loader(sizes, prefetches=1, **options):
    factory = functools.partial(growing, sizes)
    return ShmDataLoader(0, factory, prefetches, device=CUDA, **options)


def assert_contents(fake, loader, sizes):
    for i, microbatch in enumerate(loader):
        fake.settle()
        assert microbatch.numel() == sizes[i]
        assert bool((microbatch == i % 251).all()), i
    assert i == len(sizes) - 1


def test_slots_are_pinned_once_for_microbatches_of_one_size(fake):
    sizes = [UNIT] * 60
    loader = new_loader(sizes)
    assert_contents(fake, loader, sizes)
    assert 1 <= fake.count("cuMemHostRegister_v2") <= 9 + 1
    stats = loader.stats()
    assert stats.pinned_nbytes == fake.count("registered_bytes") >= UNIT
    assert stats.pinning_s > 0
    loader.teardown()
    assert fake.count("registered_bytes") == 0


@pytest.mark.parametrize("end", ["teardown", "collection"])
def test_the_memory_goes_back_at_the_end_of_the_page_locks_though_the_ring_stays_open(fake, end):
    loader = new_loader([16 * UNIT] * 20)
    for _ in range(5):
        next(loader)
    ring = os.dup(loader._feed._feeds[0]._ring.fd)
    try:
        assert loader.stats().pinned_nbytes >= 16 * UNIT
        if end == "teardown":
            loader.teardown()
        else:
            del loader
            gc.collect()
        assert os.fstat(ring).st_blocks * 512 <= 2 << 20  # what stands before the slots
    finally:
        os.close(ring)


def test_a_slot_that_grows_is_copied_in_pieces(fake):
    sizes = [UNIT, 2 * UNIT, 3 * UNIT, 4 * UNIT] * 6
    loader = new_loader(sizes, prefetches=0, device_prefetch=0)
    assert_contents(fake, loader, sizes)
    assert fake.count("cuMemcpyHtoDAsync_v2") > len(sizes)
    loader.teardown()


def test_sizes_that_jitter_do_not_pin_again_and_again(fake):
    sizes = [UNIT + 4096 * (i * 37 % 101) for i in range(120)]
    loader = new_loader(sizes)
    assert_contents(fake, loader, sizes)
    slots = 1 + 1 + 8
    assert fake.count("cuMemHostRegister_v2") <= 3 * slots
    loader.teardown()


def test_where_the_driver_refuses_copies_go_on_unpinned(fake, caplog):
    fake.fail("cuMemHostRegister_v2", 801, times=-1)  # CUDA_ERROR_NOT_SUPPORTED
    sizes = [UNIT] * 20
    loader = new_loader(sizes)
    with caplog.at_level(logging.WARNING, "fkat.data"):
        assert_contents(fake, loader, sizes)
    assert [record.name for record in caplog.records] == ["fkat.data"]
    assert "CUDA_ERROR_NOT_SUPPORTED" in caplog.text
    assert loader.stats().pinned_nbytes == 0
    loader.teardown()


def test_a_limit_on_locked_memory_leaves_what_was_pinned(fake, caplog):
    fake.limit_registered(3 * UNIT)
    sizes = [UNIT] * 40
    loader = new_loader(sizes, prefetches=4)
    with caplog.at_level(logging.WARNING, "fkat.data"):
        assert_contents(fake, loader, sizes)
    assert len(caplog.records) <= 1
    assert loader.stats().pinned_nbytes <= 3 * UNIT
    loader.teardown()


@pytest.mark.parametrize("prefetches", [0, 2, -1])
def test_a_budget_that_must_be_shared_takes_pinned_memory_back(fake, prefetches):
    """Small slots are pinned first; then one microbatch needs nearly all of the budget."""
    sizes = [UNIT] * 12 + [7 * UNIT] + [UNIT] * 12 + [6 * UNIT, 7 * UNIT] + [UNIT] * 5
    loader = new_loader(sizes, prefetches, memory_budget_nbytes=8 * UNIT, timeout=20)
    assert_contents(fake, loader, sizes)
    loader.teardown()


def test_a_ring_is_unpinned_before_host_mode_shows_its_memory(fake):
    sizes = [UNIT] * 20
    loader = new_loader(sizes, prefetches=3)
    got = [next(loader) for _ in range(3)]
    fake.settle()
    assert fake.count("registered_bytes") > 0
    loader.set_device(None)
    got += [microbatch.clone() for microbatch in iter(loader.__next__, None)]
    assert fake.count("registered_bytes") == 0
    assert [int(t[0]) for t in got] == list(range(20))
    assert all(bool((t == i).all()) for i, t in enumerate(got))
    loader.teardown()


def test_back_and_forth_between_devices(fake):
    sizes = [4096] * 40
    loader = new_loader(sizes, prefetches=4)
    got = []
    for i, device in enumerate(
        [CUDA, None, torch.device("cuda", 0), torch.device("cpu"), CUDA] * 2
    ):
        loader.set_device(device)
        for _ in range(4):
            microbatch = next(loader)
            fake.settle()
            got.append(microbatch.clone())
        assert int(got[-1][0]) == 4 * i + 3
    assert [int(t[-1]) for t in got] == list(range(40))
    loader.teardown()


def sysfs_of(folder, num_nodes, node):
    """A /sys in which the fake device 0 is on a node."""
    for i in range(num_nodes):
        (folder / f"devices/system/node/node{i}").mkdir(parents=True)
    device = folder / "bus/pci/devices/0000:3b:00.0"
    device.mkdir(parents=True)
    (device / "numa_node").write_text(f"{node}\n")
    return str(folder)


@pytest.mark.parametrize(
    ("num_nodes", "node", "is_asked_for"),
    [(1, 0, False), (2, 0, True), (2, -1, False), (2, 1, False)],
)
def test_the_ring_is_asked_for_on_the_node_of_the_device(
    fake, tmp_path, num_nodes, node, is_asked_for
):
    ring = _core.Ring.create(2, UNIT)
    stager = _core.RingStager(ring, 0, str(fake.path))
    assert stager.prefer_node_of_device(sysfs_of(tmp_path, num_nodes, node)) == is_asked_for
    policy = policy_of(ring.fd)
    assert ("prefer" in policy) == is_asked_for, policy


def policy_of(fd):
    """The memory policy of a mapped file, as the kernel shows it (numa(7))."""
    inode = os.fstat(fd).st_ino
    mapped = [line.split()[0] for line in MAPS.read_text().splitlines() if f" {inode} " in line]
    start = mapped[0].split("-")[0].lstrip("0")
    lines = (MAPS.parent / "numa_maps").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.lstrip("0").startswith(start))
