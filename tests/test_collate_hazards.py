"""What could go wrong with microbatches that are made in the slot, and does not."""

from __future__ import annotations

import queue
import threading
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from fkat.data import ShmDataLoader
from fkat.data.shm import empty

WIDTH = 6000


class Ahead(IterableDataset):
    """Collates in a thread, ahead of what is asked for, and adds what is copied."""

    count = 1500

    def collate_all(self, made):
        for number in range(self.count):
            samples = [{"x": torch.full((WIDTH,), number), "number": number} for _ in range(4)]
            made.put(default_collate(samples))
        made.put(None)

    def __iter__(self):
        made = queue.Queue(2)
        threading.Thread(target=self.collate_all, args=(made,), daemon=True).start()
        while (batch := made.get()) is not None:
            yield batch | {"copied": torch.full((40_000,), int(batch["number"][0]))}


def ahead():
    return DataLoader(Ahead(), batch_size=None)


def test_a_thread_of_user_code_may_collate_meanwhile():
    loader = ShmDataLoader(0, ahead, 2)
    for number, batch in enumerate(loader):
        found = {name: part.unique().tolist() for name, part in batch.items()}
        assert found == {name: [number] for name in ("x", "number", "copied")}
    assert number == Ahead.count - 1
    loader.teardown()


class Samples(Dataset):
    def __init__(self, make, count=12):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.make(index)


def batches(make, collate=default_collate, num_workers=0, count=12):
    return DataLoader(Samples(make, count), 2, collate_fn=collate, num_workers=num_workers)


def twice(samples):
    rows = empty((2, WIDTH), dtype=torch.int64)
    torch.stack(samples, out=rows)
    return {"input": rows, "labels": rows.view(-1)}


def row(index):
    return torch.full((WIDTH,), index + 1)


def test_leaves_of_one_memory_are_two_wherever_they_were_made():
    loader = ShmDataLoader(0, partial(batches, row, twice), 2)
    for batch in loader:
        batch["input"].zero_()
        assert (batch["labels"] > 0).all()
    loader.teardown()


def video(index):
    return torch.full((4, 16, 16, 3), index).permute(3, 0, 1, 2)


def picture(index):
    return torch.full((64, 64, 3), index).permute(2, 0, 1)


def either_dtype(index):
    return torch.full((WIDTH,), 1 / 3, dtype=[torch.float32, torch.float64][index % 2])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("make", [video, picture, either_dtype])
def test_strides_and_dtypes_are_those_of_the_dataloader(make, num_workers):
    factory = partial(batches, make, num_workers=num_workers)
    loader = ShmDataLoader(0, factory, 2)
    for _ in range(2):
        for ours, theirs in zip(loader, factory(), strict=True):
            assert ours.dtype == theirs.dtype
            assert ours.stride() == theirs.stride()
            assert torch.equal(ours, theirs)
    loader.teardown()


def with_text(index):
    return torch.zeros(1 << 19, dtype=torch.uint8), "x" * (20_000_000 if index == 20 else 5)


def pairs(samples):
    return torch.stack([tensor for tensor, _ in samples]), [text for _, text in samples]


def test_one_large_structure_makes_no_large_slots_for_good():
    loader = ShmDataLoader(0, partial(batches, with_text, pairs, count=600), 2)
    nbytes = [loader.stats().ring_nbytes for _ in loader]
    assert max(nbytes) > 20 << 20
    assert max(nbytes[200:]) < 16 << 20
    loader.teardown()


class Sparse:
    def __call__(self, index):
        return torch.sparse_coo_tensor([[index]], [1.0], (100_000,), check_invariants=True)


def test_what_torch_refuses_is_refused_in_its_words():
    loader = ShmDataLoader(0, partial(batches, Sparse()))
    with pytest.raises(RuntimeError, match="Batches of sparse tensors are not currently supported"):
        next(loader)
    loader.teardown()
