"""Training runs over this package's own loaders: microbatches of one sample, with noise on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fkat.data import DataModule, DictDataLoader, ShardedDataLoader, ShmDataLoader
from fkat.data.samplers.strategies import RoundRobin, Weighted
from fkat.data.sharded import DistributedDataParallelShardSampler, ShuffledShardSampler
from tests.lightning.training import Cut, Model, Setting
from tests.shards import ids_of, names_of


def noisy(number):
    """Noise of a seed of its own: weights are the same only if it is."""
    return number + 0.5 * torch.rand((), dtype=torch.float64)


class Noisy(Dataset):
    def __init__(self, numbers, named):
        self.numbers = numbers
        self.named = named

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        sample = noisy(self.numbers[index])
        return {"x": sample} if self.named else sample


class NoisyStream(IterableDataset):
    def __init__(self, numbers, named):
        self.samples = Noisy(numbers, named)

    def __iter__(self):
        return (self.samples[i] for i in range(len(self.samples)))


@dataclass(frozen=True)
class Open:
    """Opens a shard, or a list of numbers; can be pickled."""

    stream: bool = False
    named: bool = False

    def __call__(self, source):
        numbers = ids_of(source) if isinstance(source, str) else source
        if self.stream:
            return DataLoader(NoisyStream(numbers, self.named))
        return DataLoader(Noisy(numbers, self.named), shuffle=True)


def sharded(lengths, stream=False, named=False, prefetches=2, sampler=None, **options):
    """Shards of these lengths, in another order each epoch."""
    sampler = sampler or ShuffledShardSampler(names_of(lengths), seed=3)
    options = {"multiprocessing": False, **options}
    return ShardedDataLoader(7, sampler, Open(stream, named), prefetches, 3, **options)


def dealt_shards(lengths, size, rank, **options):
    """Shards of these lengths in this order, a block of them for each rank."""
    sampler = DistributedDataParallelShardSampler(names_of(lengths), size, rank, drop_last=False)
    return sharded(lengths, sampler=sampler, dp_rank=rank, **options)


def single(count, first=0, stream=False, named=False, **options):
    """So many samples from one source."""
    numbers = [first + i for i in range(count)]
    options = {"multiprocessing": False, **options}
    return ShmDataLoader(5, partial(Open(stream, named), numbers), 2, **options)


def mixture(strategy="in turn", **children):
    """Loaders by name."""
    strategies = {
        "in turn": lambda: RoundRobin(list(children)),
        "weighted": lambda: Weighted({name: i + 1 for i, name in enumerate(children)}, seed=2),
    }
    return DictDataLoader(children, strategies[strategy]())


class MixtureModel(Model):
    """Trains on what is in a dict."""

    def training_step(self, batch, batch_idx):
        assert isinstance(batch["dataset"], str)
        return super().training_step(batch["x"], batch_idx)


@dataclass(frozen=True)
class Ours(Setting):
    """Seven microbatches an epoch; validates on a loader of the same kind."""

    count: int = 7

    @property
    def per_epoch(self):
        return self.limit or self.count

    def new_data_module(self, factory: Callable | None = None):
        return DataModule({"train": factory, **({"val": factory} if self.validates else {})})


SETTINGS = [
    Ours(),
    Ours(validates=True, accumulate=2),
    Ours(by_steps=True, limit=5),
    Ours(validates=True, by_steps=True),
]


def cuts(setting):
    """Before, at and after the ends of epochs, at every hook."""
    n = setting.per_epoch
    yield from (Cut("on_train_batch_end", count) for count in (1, 3, n, n + 2, 2 * n))
    yield from (Cut("on_train_batch_start", count) for count in (0, n - 1, n + 2))
    yield from (Cut("on_train_epoch_start", count) for count in (n, 2 * n))
    yield Cut("on_train_epoch_end", n)
    yield Cut("on_train_start", 0)
    if setting.validates:
        yield Cut("on_validation_batch_end", n)
        yield Cut("on_validation_end", 2 * n)
    yield from (Cut("on_before_backward", count, fails=True) for count in (3, n - 1, n, n + 3))
    yield from (Cut("on_train_batch_end", count, fails=True) for count in (2, n))


def is_at_step_boundary(setting, cut):
    return cut.count % setting.per_epoch % setting.accumulate == 0
