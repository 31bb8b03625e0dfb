"""Microbatches are collated in the slot from which the trainer reads them; it never shows."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, default_convert

from fkat.data import ShmDataLoader
from fkat.data.shm import empty, empty_array
from tests.sources import IteratedAsItIs

WIDTH = 3000  # of a sample, so that a batch is worth a slot
NUM_BATCHES = 12


class Rows(Dataset):
    """Sample i is a row of i's, and i."""

    def __init__(self, count=4 * NUM_BATCHES, dtype=torch.int64):
        self.count, self.dtype = count, dtype

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.full((WIDTH,), index, dtype=self.dtype), index


def is_in_ring(address):
    """Whether there is a ring at an address of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in re.match(r"(\w+)-(\w+)", line).groups())
        if begin <= address < end:
            return "memfd:fkat" in line
    return False


def and_where(samples):
    """The batch, and whether it is in a slot."""
    rows, numbers = default_collate(samples)
    return rows, numbers, is_in_ring(rows.data_ptr())


def batches(collate=and_where, num_workers=0, dataset=None, batch_size=4):
    return DataLoader(dataset or Rows(), batch_size, collate_fn=collate, num_workers=num_workers)


def check(microbatches):
    """Every row is where it should be; whether each was collated in a slot."""
    where = []
    for number, (rows, numbers, is_in_slot) in enumerate(microbatches):
        assert numbers.tolist() == list(range(4 * number, 4 * number + 4))
        assert (rows == numbers[:, None]).all()
        assert rows.shape == (4, WIDTH)
        where.append(is_in_slot)
    assert len(where) == NUM_BATCHES
    return where


@pytest.mark.parametrize("prefetches", [0, 2, -1])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_default_collate_writes_into_the_slot(method, num_workers, prefetches):
    factory = partial(batches, num_workers=num_workers)
    loader = ShmDataLoader(0, factory, prefetches, multiprocessing_context=method)
    # The first of each producer tells the size of the next.
    first = max(num_workers, 1)
    assert check(loader) == [False] * first + [True] * (NUM_BATCHES - first)
    assert check(loader) == [True] * NUM_BATCHES
    loader.teardown()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_may_be_kept_and_written_to(method):
    loader = ShmDataLoader(0, batches, 2, multiprocessing_context=method)
    kept = []
    for microbatch in loader:
        kept.append(microbatch)
        if len(kept) == 7:
            kept[0][0].zero_()
            kept.pop(0)
    last = range(4 * NUM_BATCHES - 24, 4 * NUM_BATCHES, 4)
    assert [int(rows[0, 0]) for rows, _, _ in kept] == list(last)
    loader.teardown()


class Sizes(Dataset):
    """Batches of very different sizes, in an order that makes every guess wrong."""

    sizes = (1, 9000, 40, 400_000, 9000, 2, 1_500_000, 9000, 400_000, 0, 9000, 70_000)

    def __len__(self):
        return 2 * len(self.sizes)

    def __getitem__(self, index):
        return {"data": torch.arange(self.sizes[index // 2]) + index, "number": index}


def test_sizes_that_nobody_could_guess():
    loader = ShmDataLoader(0, partial(batches, None, 0, Sizes(), 2), 1)
    for _ in range(2):
        for number, batch in enumerate(loader):
            size = Sizes.sizes[number]
            expected = torch.stack([torch.arange(size) + 2 * number + i for i in range(2)])
            assert torch.equal(batch["data"], expected)
            assert batch["number"].tolist() == [2 * number, 2 * number + 1]
        assert number == len(Sizes.sizes) - 1
    loader.teardown()


class Many(Dataset):
    """As many tensors as a sample's number says, in a list of that length."""

    def __len__(self):
        return 3 * 8

    def __getitem__(self, index):
        return [torch.full((4000,), index + 0.5) for _ in range(1 + 40 * (index // 3))]


def test_heads_that_nobody_could_guess():
    loader = ShmDataLoader(0, partial(batches, None, 0, Many(), 3), 1)
    for number, tensors in enumerate(loader):
        assert len(tensors) == 1 + 40 * number
        expected = torch.tensor([3 * number + i + 0.5 for i in range(3)])[:, None].expand(3, 4000)
        assert all(torch.equal(tensor, expected) for tensor in tensors)
    loader.teardown()


class Keeping:
    """A collate function that keeps what it made, and looks whether anybody has changed it."""

    def __init__(self, how_many):
        self.how_many, self.kept = how_many, []

    def __call__(self, samples):
        batch = and_where(samples)
        self.kept.append((batch[0], batch[0].clone()))
        del self.kept[: -self.how_many]
        assert all(torch.equal(kept, copied) for kept, copied in self.kept)
        return batch


@pytest.mark.parametrize("budget_nbytes", [None, 4 * WIDTH * 8 + 5000])
@pytest.mark.parametrize("how_many", [1, 3, 100])
def test_user_code_may_keep_what_it_has_collated(how_many, budget_nbytes):
    factory = partial(batches, Keeping(how_many))
    loader = ShmDataLoader(0, factory, 1, memory_budget_nbytes=budget_nbytes)
    hoarded = []
    for rows, numbers, _ in loader:
        assert (rows == numbers[:, None]).all()
        hoarded.append(rows)
        rows += 1_000_000  # in the trainer; the producer keeps its own
        del hoarded[:-7]
    assert numbers.tolist() == list(range(4 * NUM_BATCHES - 4, 4 * NUM_BATCHES))
    loader.teardown()


@pytest.mark.parametrize("prefetches", [0, 3])
def test_epochs_left_early_lose_no_slots(prefetches):
    loader = ShmDataLoader(0, batches, prefetches)
    for _ in range(40):
        rows, numbers, _ = next(iter(loader))
        assert (rows == numbers[:, None]).all()
        assert numbers[0] == 0
    loader.teardown()


def fails_at(number, samples):
    batch = and_where(samples)
    if samples[0][1] == number:
        raise KeyError(number)
    return batch


def test_errors_lose_no_slots():
    loader = ShmDataLoader(0, partial(batches, partial(fails_at, 8)), 2)
    for _ in range(30):
        assert [int(numbers[0]) for _, numbers, _ in (next(loader), next(loader))] == [0, 4]
        with pytest.raises(KeyError, match="8"):
            next(loader)
        iter(loader)
    loader.teardown()


def own(samples):
    """A collate function that asks for memory itself, in both conventions."""
    rows = empty((len(samples), WIDTH), dtype=torch.float32)
    array = empty_array((len(samples), WIDTH), np.int16)
    for i, (row, index) in enumerate(samples):
        rows[i] = row
        array[i] = index
    where = is_in_ring(rows.data_ptr()), is_in_ring(array.ctypes.data)
    return rows, array, where, rows[1:], empty((2, 3)).zero_()


def test_a_collate_fn_may_ask_for_memory():
    loader = ShmDataLoader(0, partial(batches, own), 2)
    where = []
    for number, (rows, array, is_in_slot, tail, small) in enumerate(loader):
        expected = torch.arange(4 * number, 4 * number + 4)[:, None].expand(4, WIDTH)
        assert torch.equal(rows, expected.float())
        assert (array == expected.numpy()).all()
        assert array.dtype == np.int16
        assert torch.equal(tail, expected[1:].float())
        assert torch.equal(small, torch.zeros(2, 3))
        where.append(is_in_slot)
    assert where[1:] == [(True, True)] * (NUM_BATCHES - 1)
    loader.teardown()


class Arrays(Dataset):
    """Item i is an array of i's, made in the slot or elsewhere."""

    def __init__(self, new_array):
        self.new_array = new_array

    def __len__(self):
        return NUM_BATCHES

    def __getitem__(self, index):
        array = self.new_array((4 * WIDTH,), np.int64)
        array[:] = index
        return array


def converted_and_where(sample):
    converted = default_convert(sample)
    assert converted.data_ptr() == sample.ctypes.data  # no copy
    return converted, is_in_ring(converted.data_ptr())


@pytest.mark.parametrize("new_array", [empty_array, np.empty])
def test_default_convert_makes_no_copy(new_array):
    factory = partial(DataLoader, Arrays(new_array), None, collate_fn=converted_and_where)
    loader = ShmDataLoader(0, factory, 2)
    where = []
    for number, (row, is_in_slot) in enumerate(loader):
        assert torch.equal(row, torch.full((4 * WIDTH,), number))
        where.append(is_in_slot)
    assert where == [False] + [new_array is empty_array] * (NUM_BATCHES - 1)
    loader.teardown()


def asks_for_huge_pages(address):
    """Whether this process has advised so (``hg``) for the memory at an address."""
    is_there = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"(\w+)-(\w+) ", line):
            begin, end = (int(part, 16) for part in found.groups())
            is_there = begin <= address < end
        elif is_there and line.startswith("VmFlags:"):
            return "hg" in line.split()
    return False


def and_whether_huge(samples):
    rows = default_collate(samples)
    inside = rows.data_ptr() + rows.nbytes // 2  # its first page is malloc's, too
    return rows, is_in_ring(inside), asks_for_huge_pages(inside)


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages"
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_has_no_room_in_a_slot_is_collated_in_huge_pages(num_workers):
    rows = [torch.full((1 << 20,), number) for number in range(16)]
    factory = partial(batches, and_whether_huge, num_workers, rows, 4)
    loader = ShmDataLoader(0, factory, 1)
    where = []
    for number, (batch, *in_slot_and_huge) in enumerate(loader):
        assert batch[:, -1].tolist() == list(range(4 * number, 4 * number + 4))
        where.append(in_slot_and_huge)
    # Nobody knows the size of the first. The ring asks, too.
    assert where == [[False, True]] + [[True, True]] * 3
    loader.teardown()


def test_outside_of_a_producer_it_is_memory_like_any_other():
    assert empty([2, 3]).shape == (2, 3)
    assert empty((100_000,), dtype=torch.int8).dtype == torch.int8
    assert empty_array((0, 5)).shape == (0, 5)
    assert empty_array((300, 100), "u2").dtype == np.uint16
    with pytest.raises(TypeError, match="object"):
        empty_array((2,), object)


def mixed_dtypes(samples):
    return default_collate([torch.full((WIDTH,), 0.5), torch.full((WIDTH,), 1, dtype=torch.int8)])


def different_dtypes(samples):
    rows = [torch.ones(WIDTH), torch.ones(WIDTH, dtype=torch.float64) / 3]
    return default_collate(rows)


@pytest.mark.parametrize("collate", [mixed_dtypes, different_dtypes])
def test_what_cannot_be_written_there_is_as_torch_makes_it(collate):
    expected = collate([None] * 4)
    loader = ShmDataLoader(0, partial(batches, collate), 2)
    for batch in loader:
        assert batch.dtype == expected.dtype
        assert torch.equal(batch, expected)
    loader.teardown()


def uneven(samples):
    return default_collate([torch.ones(WIDTH + index) for _, index in samples])


def test_an_error_of_collate_is_torchs():
    loader = ShmDataLoader(0, partial(batches, uneven))
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        next(loader)
    loader.teardown()


class Stream(IterableDataset):
    def __iter__(self):
        rows = Rows()
        return (rows[index] for index in range(len(rows)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_iterable_dataset_is_collated_in_the_slot(num_workers):
    loader = ShmDataLoader(0, partial(batches, num_workers=num_workers, dataset=Stream()), 2)
    assert check(loader) == [False] + [True] * (NUM_BATCHES - 1)
    assert check(loader) == [True] * NUM_BATCHES
    loader.teardown()


def of_torchs_workers():
    return IteratedAsItIs(Stream(), 4, collate_fn=and_where, num_workers=1)


def test_workers_that_a_producer_forks_use_no_slot_of_their_parent():
    loader = ShmDataLoader(0, of_torchs_workers, 2)
    assert check(loader) == [False] * NUM_BATCHES
    assert check(loader) == [False] * NUM_BATCHES
    loader.teardown()
