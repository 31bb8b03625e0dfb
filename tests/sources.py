"""Factories of every kind of loader, whose samples show their random numbers."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

SEED = 7
LENGTH = 23
EPOCHS = 2
NOT_OURS = "ignore:'set_vital' is deprecated"  # torchdata calls it


class IteratedAsItIs(DataLoader):
    """Whose workers are torch's own, children of the producer: a subclass may do anything."""

    def __iter__(self):
        return super().__iter__()


class Augmented(Dataset):
    """A sample is its index and a number from each global generator."""

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


class Stream(IterableDataset):
    """The same without indices."""

    def __iter__(self):
        for index in range(LENGTH):
            yield Augmented()[index]


class StatefulStream(Stream):
    """A stream that says where it stands."""

    def __init__(self):
        self.position = self.begin = 0

    def __iter__(self):
        begin, self.begin = self.begin, 0
        for index in range(begin, LENGTH):
            self.position = index + 1
            yield Augmented()[index]

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = self.begin = state["position"]


class LazySampler(Sampler):
    """Draws from the global generators as it goes, not only at first."""

    def __iter__(self):
        for _ in range(LENGTH):
            yield random.randrange(LENGTH)

    def __len__(self):
        return LENGTH


def sequential(**options):
    return DataLoader(Augmented(), batch_size=3, **options)


def shuffled():
    return sequential(shuffle=True)


def shuffled_by_generator():
    return sequential(shuffle=True, generator=torch.Generator().manual_seed(5))


def with_replacement():
    sampler = torch.utils.data.RandomSampler(Augmented(), replacement=True, num_samples=17)
    return sequential(sampler=sampler)


def weighted():
    return sequential(sampler=torch.utils.data.WeightedRandomSampler(range(1, 24), LENGTH))


def lazy():
    return sequential(sampler=LazySampler())


def own_batches():
    return DataLoader(Augmented(), batch_sampler=BatchSampler(LazySampler(), 4, drop_last=True))


def one_by_one():
    return DataLoader(Augmented(), batch_size=None)


def workers():
    return sequential(shuffle=True, num_workers=2)


def persistent_workers():
    return sequential(shuffle=True, num_workers=2, persistent_workers=True)


def torchdata_map():
    return StatefulDataLoader(Augmented(), batch_size=3, shuffle=True)


def torchdata_workers():
    return StatefulDataLoader(Augmented(), batch_size=3, shuffle=True, num_workers=2)


def stateful():
    return DataLoader(StatefulStream(), batch_size=3)


def stateful_samples():
    return StatefulStream()


def torchdata_stream():
    return StatefulDataLoader(StatefulStream(), batch_size=3)


def stream():
    return DataLoader(Stream(), batch_size=3)


def generator():
    yield from Stream()


MAP_STYLE = [
    *[sequential, shuffled, shuffled_by_generator, with_replacement, weighted, lazy, own_batches],
    *[one_by_one, torchdata_map],
]
WITH_WORKERS = [workers, persistent_workers, torchdata_workers]
STATEFUL = [stateful, stateful_samples, torchdata_stream]
REPLAYED = [stream, generator]
