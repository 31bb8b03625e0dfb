"""A producer of shards that dies is started again, that one alone."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
from torch.utils.data import DataLoader

from fkat.data import ShardedDataLoader
from tests.restarts import Fragile, crash, delivered, numbers, plain, unbatched
from tests.sources import EPOCHS

SHARDS = ["300", "100", "200", "500", "400"]


def of_shard(shard):
    return DataLoader(range(int(shard), int(shard) + 7), batch_size=2)


@pytest.mark.parametrize("kill_at", [(1,), (3, 4, 5), (4, 8, 15), range(1, 40)])
@pytest.mark.parametrize("num_shard_prefetches", [0, 1, 3])
def test_producers_of_shards(num_shard_prefetches, kill_at):
    def new_loader():
        return ShardedDataLoader(0, SHARDS, of_shard, num_shard_prefetches, 1)

    expected = delivered(new_loader())
    assert len(expected) == EPOCHS * 5 * 4
    assert delivered(new_loader(), kill_at=kill_at) == expected


def three_producers():
    # Nothing ahead: the word that a shard is done is not yet there behind its last microbatch.
    return ShardedDataLoader(0, SHARDS, of_shard, 3, 0)


@pytest.mark.parametrize("begin_at", [0, 6])
@pytest.mark.parametrize("num_taken", [1, 4, 8, 14])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_one_of_several_producers_of_shards_while_the_others_run_on(victim, num_taken, begin_at):
    expected = delivered(three_producers())
    loader = three_producers()
    if begin_at:
        loader.load_state_dict(expected[begin_at - 1][1])
    found = [(plain(next(loader)), loader.state_dict()) for _ in range(num_taken)]
    before = [feed.pid for feed in loader._feed._feeds]
    os.kill(before[victim], signal.SIGKILL)
    found += [(plain(item), loader.state_dict()) for item in iter(loader.__next__, None)]
    found += [(plain(item), loader.state_dict()) for item in loader]
    assert found == expected[begin_at:]
    assert loader.stats().num_restarts == 1
    after = [feed.pid for feed in loader._feed._feeds]
    assert [number for number in range(3) if before[number] != after[number]] == [victim]
    loader.teardown()


@pytest.mark.parametrize("begin_at", [0, 6])
def test_an_epoch_of_shards_begun_again_begins_where_it_had_begun(begin_at):
    expected = delivered(three_producers())
    loader = three_producers()
    if begin_at:
        loader.load_state_dict(expected[begin_at - 1][1])
    for _ in range(9):
        next(loader)
        os.kill(loader._feed._feeds[0].pid, signal.SIGKILL)
    loader.set_epoch(0)
    half = [microbatch for microbatch, _ in expected[begin_at : len(expected) // 2]]
    assert [plain(microbatch) for microbatch in loader] == half
    assert loader.stats().num_restarts == 0  # its producers were started anew
    loader.teardown()


def empty_but_for_one(folder, shard):
    return unbatched(Fragile(folder, 0, 1, crash)) if shard == "full" else []


@pytest.mark.parametrize("num_producers", [0, 3])
def test_empty_shards_before_a_death_are_not_gone_through_again(tmp_path, num_producers):
    shards = ["empty", "as empty", "empty, too", "full", "the last one, empty"]
    factory = partial(empty_but_for_one, tmp_path)
    loader = ShardedDataLoader(0, shards, factory, num_producers)
    assert numbers(loader) == list(range(10))
    assert loader.stats().num_restarts == 1
    loader.teardown()
