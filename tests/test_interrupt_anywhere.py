"""An interrupt anywhere within ``next()``: what was read is delivered by the next one.

Python runs signal handlers where a function begins and behind each call of C code. So the test has
one raise at every such place in turn, by way of a profile function, which runs there, too.
"""

from __future__ import annotations

import os
import sys
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fkat.data import DictDataLoader, ShardedDataLoader, ShmDataLoader
from fkat.data.samplers.strategies import Weighted
from fkat.data.sharded import ShuffledShardSampler
from tests.shards import ids_of, names_of

LENGTH = 10_000
NUM_SHARDS = 500
MOST_PLACES = 500  # of one next(): there are fewer than 100


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


def numbers():
    return map(torch.tensor, range(LENGTH))


def loader_of(num_workers):
    return DataLoader(range(LENGTH), batch_size=None, num_workers=num_workers)


class Stream(IterableDataset):
    """Its part of the numbers in each worker."""

    def __iter__(self):
        info = get_worker_info()
        return iter(range(info.id, LENGTH, info.num_workers))


def stream_of(num_workers):
    return DataLoader(Stream(), batch_size=None, num_workers=num_workers)


def named():
    return ({"x": number} for number in numbers())


def open_one(factory, multiprocessing):
    return ShmDataLoader(
        0, factory, 2, multiprocessing=multiprocessing, multiprocessing_context="fork"
    )


def open_mixture(multiprocessing):
    children = {name: open_one(named, multiprocessing) for name in "ab"}
    return DictDataLoader({**children, "c": list(named())}, Weighted({"a": 3, "b": 1, "c": 1}))


def numbers_of(shard):
    return map(torch.tensor, ids_of(shard))


def open_shards(num_ahead, multiprocessing):
    sampler = ShuffledShardSampler(names_of(NUM_SHARDS * [3]), seed=3)
    return ShardedDataLoader(
        0,
        sampler,
        numbers_of,
        num_ahead,
        2,
        multiprocessing=multiprocessing,
        multiprocessing_context="fork",
    )


def next_interrupted_at(loader, place):
    """``next(loader)``, interrupted at that place, if there is one."""
    left, here, trainer = place, sys._getframe(), os.getpid()

    def profile(frame, event, argument):
        nonlocal left
        # Behind the last place the microbatch is the caller's.
        is_place = event in ("call", "c_return") and frame is not here
        if is_place and os.getpid() == trainer:
            if left == 0:
                sys.setprofile(None)
                raise Interrupted
            left -= 1

    sys.setprofile(profile)
    try:
        return next(loader)
    finally:
        sys.setprofile(None)


LOADERS = {
    "iterable": partial(open_one, numbers),
    "no worker": partial(open_one, partial(loader_of, 0)),
    "one worker": partial(open_one, partial(loader_of, 1)),
    "two workers": partial(open_one, partial(loader_of, 2)),
    "a stream's two workers": partial(open_one, partial(stream_of, 2)),
    "one shard": partial(open_shards, 0),
    "three shards": partial(open_shards, 2),
    "mixture": open_mixture,
}


@pytest.mark.parametrize("open_loader", LOADERS.values(), ids=LOADERS)
def test_nothing_is_lost_or_repeated_and_the_state_is_that_of_what_was_delivered(open_loader):
    check(open_loader(True), open_loader(True))


@pytest.mark.filterwarnings("ignore:.* are read again to get to where the run stopped")
@pytest.mark.parametrize("kind", ["iterable", "no worker", "three shards", "mixture"])
def test_nor_where_the_trainer_makes_them_itself(kind):
    # Between two shards there are two places that are the same.
    check(LOADERS[kind](False), LOADERS[kind](False), compares_states=kind != "three shards")


def check(loader, undisturbed, compares_states=True):
    for _ in range(100):  # the place is worked out at powers of two, of which some come
        assert next(loader) == next(undisturbed)
    num_interrupted = 0
    for place in range(MOST_PLACES):
        try:
            assert next_interrupted_at(loader, place) == next(undisturbed), place
        except Interrupted:
            num_interrupted += 1
        if compares_states:
            assert loader.state_dict() == undisturbed.state_dict(), place
        assert next(loader) == next(undisturbed), place
        if num_interrupted <= place - 3:
            break
    assert 10 < num_interrupted < MOST_PLACES - 3
    assert loader.state_dict() == undisturbed.state_dict()
    loader.teardown()
    undisturbed.teardown()


@pytest.mark.parametrize("kind", ["iterable", "one worker"])
def test_nor_in_the_first_one(kind):
    """Of two workers the second is forked in it, and an interrupt of a fork is Python's matter."""
    open_loader, num_interrupted = LOADERS[kind], 0
    for place in range(MOST_PLACES):
        loader, undisturbed = open_loader(True), open_loader(True)
        loader.prepare()
        try:
            assert next_interrupted_at(loader, place) == next(undisturbed), place
        except Interrupted:
            num_interrupted += 1
            assert next(loader) == next(undisturbed), place
        assert loader.state_dict() == undisturbed.state_dict(), place
        loader.teardown()
        undisturbed.teardown()
        if num_interrupted <= place - 3:
            break
    assert 10 < num_interrupted < MOST_PLACES - 3
