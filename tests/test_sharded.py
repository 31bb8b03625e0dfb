"""`ShardedDataLoader`: shards in order, whoever makes them, and one epoch after another."""

from __future__ import annotations

import time

import psutil
import pytest
import torch

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
    plain,
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
    [OpenShard(), IN_ORDER, OpenShard("stream"), OpenShard("stateful")],
    ids=["shuffled", "in order", "stream", "stateful"],
)
def test_an_empty_shard_has_no_microbatches(
    factory, lengths, num_shard_prefetches, multiprocessing
):
    if multiprocessing and factory.kind == "stateful":
        pytest.skip("as a stream")
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


@BOTH
@pytest.mark.parametrize("num_shard_prefetches", [0, 2])
def test_a_loop_left_anywhere_is_followed_by_the_next_epoch(
    num_shard_prefetches, multiprocessing, expected
):
    first, second = expected["map"]
    loader = new_loader(None, None, num_shard_prefetches, multiprocessing=multiprocessing)
    for taken in (1, 5, len(first)):
        loader.set_epoch(0)
        assert [plain(next(iter(loader) if i == 0 else loader)) for i in range(taken)] == (
            first[:taken]
        )
        assert [plain(microbatch) for microbatch in loader] == second


@BOTH
def test_an_iterator_asked_for_without_use_changes_nothing(multiprocessing, expected):
    loader = new_loader(None, None, 2, multiprocessing=multiprocessing)
    assert iter(iter(loader)) is loader
    assert epochs_of(loader) == expected["map"]


@BOTH
def test_stop_iteration_is_repeated_until_the_next_epoch_begins(multiprocessing, expected):
    loader = new_loader(None, None, 2, multiprocessing=multiprocessing)
    epochs_of(loader, 1)
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(loader)
    assert epochs_of(loader, 1)[0] == expected["map"][1]


@BOTH
def test_set_epoch_names_the_pass_to_come_and_leaves_one_under_way_alone(multiprocessing, expected):
    loader = new_loader(None, None, 2, multiprocessing=multiprocessing)
    loader.set_epoch(1)
    first = []
    for microbatch in loader:
        loader.set_epoch(0)
        first.append(plain(microbatch))
    assert [first, *epochs_of(loader, 1)] == expected["map"][::-1]


@BOTH
def test_teardown_in_the_middle_ends_the_epoch_and_the_producers(multiprocessing, expected):
    before = producers()
    loader = new_loader(None, None, 2, multiprocessing=multiprocessing)
    next(loader)
    loader.teardown("fit")
    assert producers() == before
    with pytest.raises(StopIteration):
        next(loader)
    assert epochs_of(loader, 1)[0] == expected["map"][1]


def test_dropping_the_loader_ends_its_producers():
    before = producers()
    loader = new_loader(None, None, 3, multiprocessing=True)
    next(loader)
    del loader
    assert producers() == before


@BOTH
def test_it_has_no_length(multiprocessing):
    loader = new_loader(multiprocessing=multiprocessing)
    assert not hasattr(loader, "__len__")
    with pytest.raises(TypeError):
        len(loader)


@BOTH
def test_statistics_count_the_microbatches_of_all_producers(multiprocessing):
    loader = new_loader(None, None, 3, multiprocessing=multiprocessing)
    assert loader.stats().num_microbatches == 0
    epochs = epochs_of(loader)
    stats = loader.stats()
    assert stats.num_microbatches == sum(map(len, epochs))
    assert (stats.nbytes > 0) is multiprocessing
    assert stats.num_skipped_shards == 0


def test_the_trainers_own_random_numbers_are_left_alone():
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    epochs_of(new_loader(None, None, 2))
    assert torch.equal(torch.rand(3), wanted)


def test_the_sampler_is_seen_to_have_handed_out_what_is_prefetched():
    sampler = ShardSampler()
    sampler.shards = names_of([1] * 6)
    loader = new_loader(sampler, IN_ORDER, 3)
    assert [(next(loader)[0].item() // 100, sampler.index) for _ in range(6)] == [
        (0, 3),
        (1, 4),
        (2, 5),
        (3, 5),
        (4, 5),
        (5, 5),
    ]


def test_a_sampler_that_was_iterated_or_used_before_begins_at_its_beginning():
    sampler = ShardSampler()
    sampler.shards = names_of([1] * 6)
    assert len(list(sampler)) == 6
    for _ in range(2):
        assert ids_in(epochs_of(new_loader(sampler, IN_ORDER), 1)[0]) == all_ids([1] * 6)
    next(new_loader(sampler, IN_ORDER, 2))
    assert ids_in(epochs_of(new_loader(sampler, IN_ORDER), 1)[0]) == all_ids([1] * 6)


def test_a_sampler_that_was_loaded_goes_on_after_the_shard_it_had_reached():
    sampler = ShardSampler()
    sampler.shards = names_of([1] * 6)
    sampler.load_state_dict({"all_rank_indices": [torch.tensor(2)]})
    loader = new_loader(sampler, IN_ORDER, 2)
    assert [ids_in(epoch) for epoch in epochs_of(loader)] == [[300, 400, 500], all_ids([1] * 6)]
