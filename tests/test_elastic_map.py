"""Microbatches of a map-style loader or a stream, dealt among ranks: each is seen exactly once."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from fkat.data import ShmDataLoader
from fkat.data.errors import StateError
from tests.shards import (
    READ_AGAIN,
    OpenShard,
    Samples,
    epochs_of,
    plain,
    take,
    through_a_checkpoint,
)

SIZES = [1, 2, 3, 4]
COUNT = 12  # microbatches in an epoch, of those that have a length
pytestmark = pytest.mark.filterwarnings(READ_AGAIN)


class Drawing:
    """A batch sampler of the user's own, which draws while it goes."""

    def __iter__(self):
        ids = list(range(23))
        random.shuffle(ids)
        while ids:
            size = random.randint(1, 3)
            yield ids[:size]
            ids = ids[size:]


def samples():
    return Samples("s-0-23", None)


def of_a_generator():
    generator = torch.Generator().manual_seed(5)
    return DataLoader(samples(), 2, shuffle=True, generator=generator)


def of_a_generator_in_the_batch_sampler():
    sampler = RandomSampler(samples(), generator=torch.Generator().manual_seed(5))
    return DataLoader(samples(), batch_sampler=BatchSampler(sampler, 2, False))


FACTORIES = {
    "in order": lambda: OpenShard(shuffle=False)("s-0-23"),
    "shuffled": lambda: OpenShard()("s-0-23"),
    "user's generator": of_a_generator,
    "user's generator in a batch sampler": of_a_generator_in_the_batch_sampler,
    "user's batch sampler": lambda: DataLoader(samples(), batch_sampler=Drawing()),
    "stream": lambda: OpenShard("stream")("s-0-23"),
    "stateful": lambda: OpenShard("stateful")("s-0-23"),
}
EVERY_FACTORY = pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)


def ranks_of(dp_size, factory, state=None, **options):
    options = {"multiprocessing": False, "drop_last": False, **options}
    ranks = [
        ShmDataLoader(7, factory, 3, dp_size=dp_size, dp_rank=rank, **options)
        for rank in range(dp_size)
    ]
    for loader in ranks if state is not None else ():
        loader.load_state_dict(through_a_checkpoint(state))
    return ranks


def step(ranks, count):
    """What every rank sees in so many steps, by step; fewer ranks in the last one."""
    seen = []
    for _ in range(count):
        seen += [plain(microbatch) for loader in ranks if (microbatch := next(loader, None))]
    return seen


def undealt(factory):
    return ShmDataLoader(7, factory, multiprocessing=False)


@EVERY_FACTORY
@pytest.mark.parametrize("dp_size", SIZES)
def test_ranks_see_the_microbatches_of_one_loader_in_turn(dp_size, factory):
    ranks = ranks_of(dp_size, factory)
    seen = []
    for _ in range(2):
        seen.append(step(ranks, 24))
        for loader in ranks:
            iter(loader)
    assert seen == epochs_of(undealt(factory), 2)


@EVERY_FACTORY
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_an_epoch_is_finished_by_any_number_of_ranks(before, after, count, factory):
    whole = epochs_of(undealt(factory), 1)[0]
    ranks = ranks_of(before, factory)
    seen = step(ranks, count)
    assert seen + step(ranks_of(after, factory, ranks[-1].state_dict()), 24) == whole


@EVERY_FACTORY
@pytest.mark.parametrize("sizes", [(1, 2, 3), (4, 1, 2), (3, 4, 1), (2, 3, 2)], ids=str)
def test_a_chain_of_numbers_of_ranks(sizes, factory):
    state, seen = None, []
    for dp_size in sizes:
        ranks = ranks_of(dp_size, factory, state)
        seen += step(ranks, 1)
        state = ranks[0].state_dict()
    assert seen + step(ranks, 24) == epochs_of(undealt(factory), 1)[0]


@pytest.mark.parametrize("dp_size", SIZES)
def test_workers_of_the_loader_and_producers_see_the_same(dp_size):
    factory = OpenShard(num_workers=2)
    ranks = ranks_of(dp_size, lambda: factory("s-0-23"), multiprocessing=True)
    seen = step(ranks, 1)
    state = ranks[0].state_dict()
    ranks = ranks_of(2, lambda: factory("s-0-23"), state, multiprocessing=True)
    assert seen + step(ranks, 24) == epochs_of(undealt(FACTORIES["shuffled"]), 1)[0]


@EVERY_FACTORY
@pytest.mark.parametrize("dp_size", SIZES)
def test_with_drop_last_ranks_are_equal_and_only_the_remainder_is_missing(dp_size, factory):
    whole = epochs_of(undealt(factory), 1)[0]
    ranks = ranks_of(dp_size, factory, drop_last=True)
    assert step(ranks, 24) == whole[: len(whole) - len(whole) % dp_size]


@EVERY_FACTORY
@pytest.mark.parametrize(("before", "after"), [(2, 3), (4, 1), (3, 4)])
def test_with_drop_last_a_resume_drops_what_is_left_of_the_rest(before, after, factory):
    whole = epochs_of(undealt(factory), 1)[0]
    ranks = ranks_of(before, factory, drop_last=True)
    seen = step(ranks, 1)
    seen += step(ranks_of(after, factory, ranks[0].state_dict(), drop_last=True), 24)
    assert seen == whole[: len(whole) - (len(whole) - before) % after]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_the_length_is_that_of_the_whole_epoch_of_a_rank(before, after, count, drop_last):
    ranks = ranks_of(before, FACTORIES["shuffled"], drop_last=drop_last)
    step(ranks, count)
    resumed = ranks_of(after, FACTORIES["shuffled"], ranks[0].state_dict(), drop_last=drop_last)
    lengths = [len(loader) for loader in resumed]
    assert [count + len(list(rest(loader))) for loader in resumed] == lengths
    assert [len(loader) for loader in ranks] == [
        len(range(rank, COUNT - COUNT % before if drop_last else COUNT, before))
        for rank in range(before)
    ]


def rest(loader):
    return iter(lambda: next(loader, None), None)


@EVERY_FACTORY
def test_the_epoch_after_a_resume_is_dealt_as_always(factory):
    ranks = ranks_of(2, factory)
    step(ranks, 2)
    resumed = ranks_of(3, factory, ranks[0].state_dict())
    step(resumed, 24)
    assert [epochs_of(loader, 1)[0] for loader in resumed] == [
        epochs_of(loader, 2)[1] for loader in ranks_of(3, factory)
    ]


@EVERY_FACTORY
@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_resumes_its_own_state_at_every_step(rank, factory):
    loader = ranks_of(3, factory)[rank]
    seen = take(ranks_of(3, factory)[rank], 8)
    for done in range(4):
        resumed = ranks_of(3, factory, loader.state_dict())[rank]
        assert take(resumed, 8 - done) == seen[done:]
        next(loader)


def test_a_state_of_a_loader_that_does_not_deal_is_refused():
    state = undealt(FACTORIES["shuffled"]).state_dict()
    with pytest.raises(StateError, match=r"dp_size=None.*dp_size=2"):
        ranks_of(2, FACTORIES["shuffled"], state)
