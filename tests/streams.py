"""Iterable datasets whose workers have streams of different lengths, and loaders of them."""

from __future__ import annotations

import io

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fkat.data import ShmDataLoader
from tests.sources import Augmented
from tests.tampered import saved_by_torch

EVEN, UNEVEN, LAST_ALONE, MOSTLY_NOTHING = [4, 4], [3, 0, 7], [1, 2, 5], [0, 0, 3]


class Unsplit(IterableDataset):
    """The same from every worker."""

    def __iter__(self):
        return iter(torch.arange(7))

    def __len__(self):
        return 7


class Split(IterableDataset):
    """Worker w yields (w, 0), (w, 1), ... of a length of its own, each with random numbers."""

    def __init__(self, lengths):
        self.lengths = lengths

    def __iter__(self):
        return self.rest(0)

    def rest(self, begin):
        number = get_worker_info().id
        for i in range(begin, self.lengths[number]):
            yield [number, i, *Augmented()[0][1:]]


class StatefulSplit(Split):
    """The same, and it says where it stands."""

    position = begin = 0

    def __iter__(self):
        begin, self.begin = self.begin, 0
        for sample in self.rest(begin):
            self.position = sample[1] + 1
            yield sample

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = self.begin = state["position"]


def split(lengths, batch_size=None, dataset=Split, **options):
    """One worker for each length."""
    options = {"num_workers": len(lengths), "collate_fn": list, **options}
    return DataLoader(dataset(lengths), batch_size, **options)


def new(factory, num_prefetches=2, **options):
    return ShmDataLoader(0, factory, num_prefetches, multiprocessing_context="fork", **options)


def rest(loader):
    return list(iter(loader.__next__, None))


def through_a_file(state):
    return torch.load(io.BytesIO(saved_by_torch(state)), weights_only=True)
