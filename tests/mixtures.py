"""Mixtures of every kind of loader and strategy, whose microbatches say where they are from."""

from __future__ import annotations

import functools
import io
import itertools

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from fkat.data import DictDataLoader, ShmDataLoader
from fkat.data.samplers.strategies import Frequency, RoundRobin, Weighted

READ_AGAIN = "ignore:.*read again:UserWarning"
# torchdata 0.11 with the torch of today.
SET_VITAL = "ignore:'set_vital' is deprecated:UserWarning"


class OfEpoch:
    """A sampler that rotates its indices by the epoch."""

    def __init__(self, count):
        self.count = count
        self.epoch = 0

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter([(self.epoch, (i + self.epoch) % self.count) for i in range(self.count)])

    def set_epoch(self, epoch):
        self.epoch = epoch


class Samples:
    """A dataset that says which epoch and index it was asked for."""

    def __getitem__(self, index):
        return {"place": torch.tensor(index)}


class Stream(IterableDataset):
    """The same as a stream of unknown length."""

    def __init__(self, count):
        self.sampler = OfEpoch(count)

    def __iter__(self):
        return ({"place": torch.tensor(index)} for index in self.sampler)

    def set_epoch(self, epoch):
        self.sampler.set_epoch(epoch)


class StatefulStream(Stream):
    """One that torchdata need not read again (which it does wrongly the second time)."""

    def __init__(self, count):
        super().__init__(count)
        self.start = self.position = 0

    def __iter__(self):
        self.start, self.position = 0, self.start
        return self.rest(itertools.islice(super().__iter__(), self.position, None))

    def rest(self, items):
        for item in items:
            self.position += 1
            yield item

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state_dict):
        self.start = state_dict["position"]


class Counting:
    """A loader of a user's own, with a state of its own; counts its epochs itself."""

    def __init__(self, count):
        self.count = count
        self.epoch = 0
        self.position = 0
        self.has_delivered = False

    def __iter__(self):
        if self.has_delivered:
            self.begin(self.epoch + 1)
        while self.position < self.count:
            self.position += 1
            self.has_delivered = True
            yield {"place": torch.tensor([self.epoch, self.position - 1])}
        self.begin(self.epoch + 1)

    def begin(self, epoch, position=0):
        self.epoch, self.position, self.has_delivered = epoch, position, False

    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position, "rng": torch.arange(3)}

    def load_state_dict(self, state_dict):
        self.begin(state_dict["epoch"], state_dict["position"])


def of_map(cls, count, **options):
    return cls(Samples(), batch_size=None, sampler=OfEpoch(count), **options)


def batched(count):
    return DataLoader(Samples(), batch_sampler=BatchSampler(OfEpoch(2 * count), 2, False))


def shm(factory, multiprocessing=False):
    return ShmDataLoader(3, factory, multiprocessing=multiprocessing)


KINDS = {
    "shm": lambda n: shm(functools.partial(of_map, DataLoader, n)),
    "shm of batches": lambda n: shm(functools.partial(batched, n)),
    "shm without length": lambda n: shm(functools.partial(Stream, n)),
    "torchdata": lambda n: of_map(StatefulDataLoader, n),
    "torchdata without length": lambda n: StatefulDataLoader(StatefulStream(n), batch_size=None),
    "of the user": Counting,
    "plain": lambda n: of_map(DataLoader, n),
    "plain without length": Stream,
    "list": lambda n: [{"place": torch.tensor([0, i])} for i in range(n)],
    "mixture": lambda n: DictDataLoader(
        {"x": shm(functools.partial(Stream, n - n // 2)), "y": KINDS["torchdata"](n // 2)},
        Weighted({"x": 1, "y": 1}),
        key="inner",
    ),
}
STRATEGIES = {
    "weighted": lambda: Weighted({"a": 3, "b": 2, "c": 1}, seed=1),
    "weighted, one off": lambda: Weighted({"a": 3, "b": 2, "c": 0}),
    "round robin": lambda: RoundRobin(["a", "b", "c"]),
    "frequency": lambda: Frequency([["a", 2], ["c", 1], ["b", 3]]),
    "endless iterator": lambda: itertools.cycle("abcb"),
    "list": lambda: list("abcba"),
    "generator": lambda: (name for name in "cab" * 9),
}
LENGTHS = {"a": 4, "b": 2, "c": 1}


def mixture(strategy, kinds, lengths=LENGTHS):
    loaders = {n: KINDS[k](count) for (n, count), k in zip(lengths.items(), kinds, strict=True)}
    return DictDataLoader(loaders, STRATEGIES[strategy]())


def place_of(batch):
    return batch["dataset"], batch.get("inner"), batch["place"].tolist()


def epochs_of(loader, count):
    return [[place_of(batch) for batch in loader] for _ in range(count)]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
