"""Memory: what is too large, what the budget admits, what a cgroup admits, what is given back."""

from __future__ import annotations

import gc
import os
import random
import uuid
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data import ShmDataLoader

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Blobs(Dataset):
    """Byte tensors of the given sizes, each filled with its index."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((self.sizes[index],), index % 251, dtype=torch.uint8)


def blobs(sizes: list[int]) -> DataLoader:
    return DataLoader(Blobs(sizes), batch_size=None)


class Witness:
    """Makes tensors that say whether the one before was still alive when they were made."""

    def __init__(self) -> None:
        self.previous: Callable[[], object] = lambda: None

    def make(self) -> torch.Tensor:
        made = torch.tensor([self.previous() is not None])
        self.previous = weakref.ref(made)
        return made


class WitnessedItems(Dataset):
    def __init__(self) -> None:
        self.witness = Witness()

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.witness.make()


class WitnessedStream:
    def __iter__(self) -> Iterator[torch.Tensor]:
        witness = Witness()
        for _ in range(5):
            yield witness.make()


def witnessed_items() -> DataLoader:
    return DataLoader(WitnessedItems(), batch_size=None)


@pytest.mark.parametrize("factory", [witnessed_items, WitnessedStream])
def test_the_producer_holds_one_microbatch_at_a_time(factory):
    loader = ShmDataLoader(0, factory, multiprocessing_context="fork")
    assert [bool(was_alive) for was_alive in loader] == [False] * 5


def is_filled(blob: torch.Tensor, index: int) -> bool:
    return all(bool((part == index % 251).all()) for part in blob.split(64 * MIB))


def ring_nbytes() -> int:
    """Memory behind the rings of this process."""
    total = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            if "memfd:fkat" in str(link.readlink()):
                total += os.fstat(int(link.name)).st_blocks * 512
        except OSError:  # the descriptor of the listing itself
            continue
    return total


@pytest.mark.parametrize("parameter", ["max_microbatch_nbytes", "memory_budget_nbytes"])
def test_a_microbatch_that_is_too_large_says_what_to_change(parameter):
    limits = {"max_microbatch_nbytes": 64 * MIB, "memory_budget_nbytes": 64 * MIB}
    limits[parameter] = 2 * MIB
    loader = ShmDataLoader(0, partial(blobs, [KIB, KIB, 3 * MIB, KIB]), **limits)
    assert [len(next(loader)), len(next(loader))] == [KIB, KIB]
    with pytest.raises(ValueError, match=parameter) as caught:
        next(loader)
    caught.value.__traceback__ = None
    assert "3.0 MiB" in str(caught.value)
    assert "2.0 MiB" in str(caught.value)
    advised = int(str(caught.value).split("at least ")[1].split()[0])
    assert 3 * MIB < advised < 3 * MIB + 64 * KIB


def test_the_advice_in_that_error_works():
    factory = partial(blobs, [3 * MIB] * 4)
    with pytest.raises(ValueError, match="at least") as caught:
        next(ShmDataLoader(0, factory, max_microbatch_nbytes=2 * MIB))
    advised = int(str(caught.value).split("at least ")[1].split()[0])
    caught.value.__traceback__ = None
    loader = ShmDataLoader(0, factory, max_microbatch_nbytes=advised, memory_budget_nbytes=advised)
    assert [len(microbatch) for microbatch in loader] == [3 * MIB] * 4


def test_after_one_that_is_too_large_the_loader_works():
    factory = partial(blobs, [KIB, 3 * MIB])
    loader = ShmDataLoader(0, factory, max_microbatch_nbytes=2 * MIB)
    for _ in range(3):
        assert len(next(iter(loader))) == KIB
        with pytest.raises(ValueError, match="max_microbatch_nbytes"):
            next(loader)


@pytest.mark.parametrize("budget", [4 * MIB, 16 * MIB])
def test_the_budget_holds_for_sizes_that_vary(budget):
    sizes = random.Random(0).choices(range(1, 2 * MIB), k=300)
    loader = ShmDataLoader(0, partial(blobs, sizes), 64, memory_budget_nbytes=budget)
    most = 0
    for index, microbatch in enumerate(loader):
        assert is_filled(microbatch, index)
        most = max(most, ring_nbytes())
    # Beside the budget: the one or two that the trainer holds, and the ring's own lines.
    assert 0 < most <= budget + 2 * 2 * MIB + MIB


def test_a_window_without_a_number_fills_the_budget_and_stops(wait_until):
    sizes = [MIB] * 100
    loader = ShmDataLoader(0, partial(blobs, sizes), -1, memory_budget_nbytes=20 * MIB)
    first = next(loader)
    wait_until(lambda: ring_nbytes() > 18 * MIB)
    assert ring_nbytes() <= 20 * MIB + 2 * MIB + MIB
    assert is_filled(first, 0)
    del first
    assert all(is_filled(next(loader), index) for index in range(1, 100))


def test_sizes_from_nothing_to_a_gigabyte_in_one_run():
    largest = 1_000_000_000
    if psutil.virtual_memory().available < 6 * largest:
        pytest.skip("needs 6 GB of free memory")
    sizes = [0, largest, 1, 4 * KIB, 64 * MIB, 0, 3 * MIB + 1, largest, 7]
    loader = ShmDataLoader(0, partial(blobs, sizes), 2, memory_budget_nbytes=2 * GIB)
    count = 0
    for index, microbatch in enumerate(loader):
        assert len(microbatch) == sizes[index]
        assert is_filled(microbatch, index)
        count += 1
    assert count == len(sizes)


def test_what_one_large_microbatch_took_is_given_back():
    sizes = [MIB] * 5 + [128 * MIB] + [MIB] * 200
    loader = ShmDataLoader(0, partial(blobs, sizes), 4, memory_budget_nbytes=GIB)
    nbytes = []
    for index, microbatch in enumerate(loader):
        assert is_filled(microbatch, index)
        nbytes.append(ring_nbytes())
    assert nbytes[10] > 128 * MIB
    assert max(nbytes[150:]) < 32 * MIB


def test_sizes_that_vary_a_little_give_nothing_back():
    sizes = [*range(MIB, 3 * MIB, 5 * KIB)]
    loader = ShmDataLoader(0, partial(blobs, [3 * MIB, *sizes]), 4, memory_budget_nbytes=GIB)
    nbytes = [ring_nbytes() for _ in loader]
    assert nbytes == sorted(nbytes)


def test_everything_is_given_back_when_nothing_is_held():
    loader = ShmDataLoader(0, partial(blobs, [MIB] * 10))
    kept = [next(loader) for _ in range(3)]
    assert ring_nbytes() > 3 * MIB
    del loader
    gc.collect()
    assert ring_nbytes() > 3 * MIB  # the tensors hold it
    assert [is_filled(tensor, index) for index, tensor in enumerate(kept)] == [True] * 3
    del kept
    gc.collect()
    assert ring_nbytes() == 0
    assert "memfd:fkat" not in Path("/proc/self/maps").read_text()


@pytest.fixture
def memory_cgroup() -> Iterator[tuple[Path, str]]:
    """A new memory cgroup below this process's own, and the name of its limit file."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = {name: path.strip("/") for _, names, path in lines for name in names.split(",")}
    if "memory" in own:  # version 1
        parent, limit = Path("/sys/fs/cgroup/memory") / own["memory"], "memory.limit_in_bytes"
    else:
        parent, limit = Path("/sys/fs/cgroup") / own.get("", ""), "memory.max"
    group = parent / f"fkat_test_{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
        (group / limit).read_text()
        (group / "cgroup.procs").write_text("")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"cannot make a memory cgroup here: {error}")
    yield group, limit
    group.rmdir()


OUT_OF_MEMORY = """
import sys
import time
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text("0")  # this process
import torch
from torch.utils.data import DataLoader, Dataset
from fkat.data import ShmDataLoader

class Blobs(Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return torch.full((32 << 20,), index, dtype=torch.uint8)

def factory():
    return DataLoader(Blobs(), batch_size=None)

if __name__ == "__main__":
    options = {} if sys.argv[2] == "default" else {"memory_budget_nbytes": 1 << 40}
    loader = ShmDataLoader(0, factory, 500, **options)
    print(int(next(loader)[0]))
    if sys.argv[2] == "default":
        stats = loader.stats()
        print(stats.cgroup_nbytes >> 20, 0 < stats.budget_nbytes < stats.cgroup_nbytes / 4)
    if sys.argv[2] == "default":
        print([int(next(loader)[-1]) for _ in range(30)] == list(range(1, 31)))
        sys.exit()
    count = 1
    # Nothing is taken: the producer publishes until memory ends, and an error after that.
    while loader._feed._feeds[0]._ring.look().activity != "awaiting pass":
        time.sleep(0.05)
    try:
        while True:
            blob = next(loader)
            assert int(blob[0]) == int(blob[-1]) == count
            count += 1
    except MemoryError as error:
        print(count > 5, str(error).splitlines()[0])
"""


def test_memory_that_runs_out_is_a_memory_error(start_trainer, memory_cgroup, wait_until):
    group, limit = memory_cgroup
    (group / limit).write_text(str(768 * MIB))
    trainer = start_trainer(OUT_OF_MEMORY, str(group), "unlimited")
    code, output, errors = trainer.finish()
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    assert (code, errors) == (0, "")
    first, last = output.splitlines()
    assert first == "0"
    assert last.startswith("True no memory for a slot: needed ")
    assert "cgroup limit 768.0 MiB" in last
    assert "memory_budget_nbytes" in last


def test_the_default_budget_fits_a_cgroup(start_trainer, memory_cgroup, wait_until):
    group, limit = memory_cgroup
    (group / limit).write_text(str(768 * MIB))
    trainer = start_trainer(OUT_OF_MEMORY, str(group), "default")
    outcome = trainer.finish()
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    assert outcome == (0, "0\n768 True\nTrue\n", "")


def test_a_budget_follows_the_leases(wait_until: Callable[..., None]):
    # Tensors that the user keeps are the user's memory: they cannot use up the budget.
    loader = ShmDataLoader(0, partial(blobs, [MIB] * 7), 4, memory_budget_nbytes=2 * MIB)
    kept = list(loader)
    assert [is_filled(tensor, index) for index, tensor in enumerate(kept)] == [True] * 7
