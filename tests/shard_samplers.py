"""Shard samplers to test with."""

from __future__ import annotations

import torch

from fkat.data._shards.samplers import (
    DistributedDataParallelShardSampler,
    ShardSampler,
)


def names(count):
    return [f"shard-{i}" for i in range(count)]


def dealt(shards, dp_size, dp_rank=0, **options):
    return DistributedDataParallelShardSampler(shards, dp_size, dp_rank, drop_last=False, **options)


def state(*indices):
    return {"all_rank_indices": [torch.tensor(i) for i in indices]}


def indices(sampler):
    return [index.item() for index in sampler.state_dict()["all_rank_indices"]]


class OnlyShards(ShardSampler):
    """A user's sampler that sets its shards, and does not call __init__."""

    def __init__(self, shards):
        self.shards = shards


class OnlyIter(ShardSampler):
    """A user's sampler that orders by the epoch, and counts on its own."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        for i in range(self.count):
            self.index = i
            yield f"epoch-{self.epoch}-{i}"


class Filtered(ShardSampler):
    """A user's sampler that leaves out some of what the base class yields."""

    def __init__(self, shards):
        self.shards = shards

    def __iter__(self):
        return (shard for shard in super().__iter__() if shard != "shard-1")


class OwnIterator(ShardSampler):
    """A user's sampler that is its own iterator."""

    def __iter__(self):
        self.index = -1
        return self

    def __next__(self):
        self.index += 1
        if self.index == 3:
            raise StopIteration
        return f"shard-{self.index}"
