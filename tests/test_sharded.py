"""`ShardedDataLoader`: shards in order, whoever makes them, and one epoch after another."""

from __future__ import annotations

import time

import psutil
import pytest

from fkat.data.sharded import DistributedDataParallelShardSampler, ShardSampler
from tests.shards import (
    LENGTHS,
    OpenShard,
    all_ids,
    epochs_of,
    ids_in,
    ids_of,
    lines_of,
    names_of,
    new_loader,
    shuffled,
)

KINDS = ("map", "stream", "stateful")
BOTH = pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
IN_ORDER = OpenShard(shuffle=False)


@pytest.fixture(scope="module")
def expected():
    """Two epochs of every kind of shard, made in this process without any prefetch."""
    made = {kind: epochs_of(new_loader(factory=OpenShard(kind))) for kind in KINDS}
    made["workers"] = made["map"]
    return made


def producers():
    return {child.pid for child in psutil.Process().children()}


@BOTH
@pytest.mark.parametrize("num_shard_prefetches", [0, 1, 2, 3, 7])
def test_shards_come_one_after_another_in_order(num_shard_prefetches, multiprocessing):
    loader = new_loader(
        names_of([3, 0, 4, 1]), IN_ORDER, num_shard_prefetches, multiprocessing=multiprocessing
    )
    in_order = [[0, 1], [2], [200, 201], [202, 203], [300]]
    assert [[ids for ids, _ in epoch] for epoch in epochs_of(loader)] == [in_order, in_order]


def test_a_shuffled_epoch_is_every_sample_once_shard_by_shard_in_the_samplers_order(expected):
    for epoch, microbatches in enumerate(expected["map"]):
        [order] = shuffled().deal(epoch)
        ids = ids_in(microbatches)
        assert sorted(ids) == all_ids(LENGTHS)
        assert list(dict.fromkeys(i // 100 for i in ids)) == [
            ids_of(shard)[0] // 100 for shard in order if ids_of(shard)
        ]


def test_no_two_microbatches_see_the_same_random_numbers(expected):
    draws = [tuple(draw) for epoch in expected["map"] for _, rows in epoch for draw in rows]
    assert len(set(draws)) == len(draws) == 2 * sum(LENGTHS)


@BOTH
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_shard_prefetches", [0, 1, 2, 3, 7])
def test_any_number_of_producers_makes_the_same_epochs(
    num_shard_prefetches, kind, multiprocessing, expected
):
    options = {"multiprocessing": multiprocessing}
    loader = new_loader(None, OpenShard(kind), num_shard_prefetches, **options)
    assert epochs_of(loader) == expected[kind]


@BOTH
@pytest.mark.parametrize("num_shard_prefetches", [0, 3])
@pytest.mark.parametrize("window", [0, 1, 3, -1])
def test_any_number_of_microbatches_ahead_makes_the_same_epochs(
    window, num_shard_prefetches, multiprocessing, expected
):
    options = {"multiprocessing": multiprocessing}
    loader = new_loader(None, None, num_shard_prefetches, window, **options)
    assert epochs_of(loader) == expected["map"]


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_any_start_method_makes_the_same_epochs(start_method, expected):
    options = {"multiprocessing": True, "multiprocessing_context": start_method}
    assert epochs_of(new_loader(None, None, 2, **options)) == expected["map"]


@pytest.mark.parametrize("num_shard_prefetches", [0, 2])
def test_shards_read_by_workers_of_their_own_make_the_same_epochs(num_shard_prefetches, expected):
    factory = OpenShard(num_workers=2)
    loader = new_loader(None, factory, num_shard_prefetches, multiprocessing=True)
    assert epochs_of(loader) == expected["workers"]
    assert loader.stats().num_microbatches == sum(map(len, expected["workers"]))


@pytest.mark.parametrize(("prefetches", "count"), [(0, 1), (1, 1), (2, 2), (3, 3), (7, 7)])
def test_as_many_producers_as_shards_in_production(prefetches, count):
    loader = new_loader(None, None, prefetches, multiprocessing=True)
    before = producers()
    next(loader)
    first = producers() - before
    epochs_of(loader)
    assert len(first) == count
    assert producers() - before == first


def test_without_multiprocessing_no_process_is_started():
    before = producers()
    next(new_loader(None, None, 3))
    assert producers() == before


@BOTH
def test_without_prefetch_a_shard_is_opened_when_the_last_one_is_exhausted(
    multiprocessing, tmp_path
):
    shards = names_of([4, 2, 2])
    factory = OpenShard(log=str(tmp_path / "log"))
    loader = new_loader(shards, factory, 0, -1, multiprocessing=multiprocessing)
    opened = []
    for _ in range(4):
        next(loader)
        time.sleep(0.1)  # in which a producer that went on would open the next one
        opened.append([line for line in lines_of(factory.log) if line.startswith("open")])
    opens = [f"open {shard}" for shard in shards]
    assert opened == [opens[:1], opens[:1], opens[:2], opens]


def test_with_prefetch_the_next_shards_are_open_while_the_first_is_read(tmp_path, wait_until):
    shards = names_of([4] * 8)
    factory = OpenShard(log=str(tmp_path / "log"))
    loader = new_loader(shards, factory, 3, 1, multiprocessing=True)
    next(loader)
    ahead = {f"open {shard}" for shard in shards[:3]}
    wait_until(lambda: ahead <= set(lines_of(factory.log)))
    time.sleep(0.1)
    assert {line for line in lines_of(factory.log) if line.startswith("open")} == ahead


@BOTH
@pytest.mark.parametrize("num_shard_prefetches", [0, 1, 2, 3])
@pytest.mark.parametrize("lengths", [[0, 3], [3, 0], [3, 0, 0, 3], [0, 0, 0], [0], []], ids=str)
@pytest.mark.parametrize(
    "factory",
    [OpenShard(), IN_ORDER, OpenShard("stream")],
    ids=["shuffled", "in order", "stream"],
)
def test_an_empty_shard_has_no_microbatches(
    factory, lengths, num_shard_prefetches, multiprocessing
):
    options = {"multiprocessing": multiprocessing}
    loader = new_loader(names_of(lengths), factory, num_shard_prefetches, **options)
    epochs = [ids_in(epoch) for epoch in epochs_of(loader)]
    assert [sorted(ids) for ids in epochs] == [all_ids(lengths)] * 2


def test_a_shard_may_be_a_list_of_files():
    [first, second, third] = names_of([3, 2, 1])
    loader = new_loader([[first, second], [third]], IN_ORDER)
    assert [ids for ids, _ in epochs_of(loader, 1)[0]] == [[0, 1], [2, 100], [101], [200]]


class EveryOther(ShardSampler):
    """A sampler of the user's own: shards of even number in even epochs, the rest in odd ones."""

    def __iter__(self):
        return iter(names_of([1, 2, 1, 2])[self.epoch % 2 :: 2])


@pytest.mark.parametrize("num_shard_prefetches", [0, 2])
def test_a_sampler_of_the_users_own_is_asked_for_each_epoch(num_shard_prefetches):
    loader = new_loader(EveryOther(), IN_ORDER, num_shard_prefetches)
    even, odd = [[0], [200]], [[100, 101], [300, 301]]
    assert [[ids for ids, _ in epoch] for epoch in epochs_of(loader, 3)] == [even, odd, even]


def test_each_rank_reads_the_shards_that_the_sampler_deals_to_it():
    shards = names_of([2, 2, 2, 2, 2])
    ranks = [DistributedDataParallelShardSampler(shards, 2, rank, False) for rank in range(2)]
    epochs = [epochs_of(new_loader(rank, IN_ORDER), 1)[0] for rank in ranks]
    assert [[i // 100 for i in ids_in(epoch)[::2]] for epoch in epochs] == [[0, 1, 2], [3, 4]]
