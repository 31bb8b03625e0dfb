"""`ShardedDataLoader`: one epoch after another, left anywhere; its statistics, its sampler."""

from __future__ import annotations

import psutil
import pytest
import torch

from fkat.data.sharded import ShardSampler
from tests.shards import OpenShard, all_ids, epochs_of, ids_in, names_of, new_loader, plain

BOTH = pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
IN_ORDER = OpenShard(shuffle=False)


@pytest.fixture(scope="module")
def expected():
    """Two epochs, made in this process without any prefetch."""
    return epochs_of(new_loader())


def producers():
    return {child.pid for child in psutil.Process().children()}


@BOTH
@pytest.mark.parametrize("num_shard_prefetches", [0, 2])
def test_a_loop_left_anywhere_is_followed_by_the_next_epoch(
    num_shard_prefetches, multiprocessing, expected
):
    first, second = expected
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
    assert epochs_of(loader) == expected


@BOTH
def test_stop_iteration_is_repeated_until_the_next_epoch_begins(multiprocessing, expected):
    loader = new_loader(None, None, 2, multiprocessing=multiprocessing)
    epochs_of(loader, 1)
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(loader)
    assert epochs_of(loader, 1)[0] == expected[1]


@BOTH
def test_set_epoch_names_the_pass_to_come_and_leaves_one_under_way_alone(multiprocessing, expected):
    loader = new_loader(None, None, 2, multiprocessing=multiprocessing)
    loader.set_epoch(1)
    first = []
    for microbatch in loader:
        loader.set_epoch(0)
        first.append(plain(microbatch))
    assert [first, *epochs_of(loader, 1)] == expected[::-1]


@BOTH
def test_teardown_in_the_middle_ends_the_epoch_and_the_producers(multiprocessing, expected):
    before = producers()
    loader = new_loader(None, None, 2, multiprocessing=multiprocessing)
    next(loader)
    loader.teardown("fit")
    assert producers() == before
    with pytest.raises(StopIteration):
        next(loader)
    assert epochs_of(loader, 1)[0] == expected[1]


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
    assert ids_in(epochs_of(new_loader(sampler, IN_ORDER), 1)[0]) == all_ids([1] * 6)
