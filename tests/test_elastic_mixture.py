"""A mixture that was begun by some ranks is finished by another number of them."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from torch.utils.data import DataLoader

from fkat.data import DictDataLoader, ShardedDataLoader, ShmDataLoader
from fkat.data.samplers.strategies import Frequency, RoundRobin, Weighted
from fkat.data.sharded import DistributedDataParallelShardSampler, ShuffledShardSampler

SHARDS = [str(i) for i in range(8)]
STRATEGIES = {
    "weighted": lambda: Weighted({"a": 3, "b": 1, "s": 2}, seed=2),
    "in turn": lambda: RoundRobin(["a", "b", "s"]),
    "by number": lambda: Frequency([["a", 2], ["s", 3], ["b", 1]]),
}


def samples(first, length):
    rows = [{"id": first + i} for i in range(length)]
    return DataLoader(rows, batch_size=2, shuffle=True)


def of_shard(shard):
    return samples(10_000 + 100 * int(shard), 10)


def dealt(first, length, size, rank, **options):
    factory = partial(samples, first, length)
    options = {"multiprocessing": False, "drop_last": False, **options}
    return ShmDataLoader(5, factory, 2, dp_rank=rank, dp_size=size, **options)


def ranks(size, strategy, **options):
    return [
        DictDataLoader(
            {
                "a": dealt(0, 60, size, rank, **options),
                "b": dealt(1000, 40, size, rank, **options),
                "s": ShardedDataLoader(
                    5,
                    DistributedDataParallelShardSampler(
                        ShuffledShardSampler(SHARDS), size, rank, drop_last=False
                    ),
                    of_shard,
                    dp_rank=rank,
                    multiprocessing=options.get("multiprocessing", False),
                ),
            },
            STRATEGIES[strategy](),
        )
        for rank in range(size)
    ]


EVERYTHING = Counter(
    [*range(60), *range(1000, 1040)]
    + [10_000 + 100 * shard + i for shard in range(8) for i in range(10)]
)


def step(loaders, count):
    """What all ranks see in so many steps."""
    return [i for _ in range(count) for loader in loaders for i in next(loader)["id"].tolist()]


def rest(loader):
    found = []
    while (microbatch := next(loader, None)) is not None:
        found += microbatch["id"].tolist()
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("before", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_every_sample_exactly_once(strategy, before, after):
    for count in (0, 1, 5, 9):
        loaders = ranks(before, strategy)
        seen = step(loaders, count)
        states = [loader.state_dict() for loader in loaders]
        loaders = ranks(after, strategy)
        for loader in loaders:
            loader.load_state_dict(states[0])
        for loader in loaders:
            seen += rest(loader)
        assert Counter(seen) == EVERYTHING, count


@pytest.mark.parametrize("sizes", [(1, 2, 3), (4, 2, 3), (3, 4, 1), (2, 2, 4)])
def test_through_several_numbers_of_ranks(sizes):
    seen, state = [], {}
    for size in sizes:
        loaders = ranks(size, "weighted")
        for loader in loaders:
            loader.load_state_dict(state)
        seen += step(loaders, 3)
        state = loaders[-1].state_dict()
    loaders = ranks(2, "weighted")
    for loader in loaders:
        loader.load_state_dict(state)
        seen += rest(loader)
    assert Counter(seen) == EVERYTHING


def test_from_producer_processes():
    loaders = ranks(2, "in turn", multiprocessing=True)
    seen = step(loaders, 6)
    state = loaders[0].state_dict()
    for loader in loaders:
        loader.teardown()
    loaders = ranks(3, "in turn", multiprocessing=True)
    for loader in loaders:
        loader.load_state_dict(state)
        seen += rest(loader)
        loader.teardown()
    assert Counter(seen) == EVERYTHING


def test_all_ranks_draw_the_same_names():
    loaders = ranks(4, "weighted")
    names = [[next(loader)["dataset"] for _ in range(8)] for loader in loaders]
    assert names == [names[0]] * 4
