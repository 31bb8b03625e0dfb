"""Shard samplers by themselves: what iterating yields, and their state."""

from __future__ import annotations

import pytest
import torch

from fkat.data._shards.samplers import (
    ShardSampler,
    ShuffledShardSampler,
)
from tests.shard_samplers import (
    Filtered,
    OnlyIter,
    OnlyShards,
    OwnIterator,
    dealt,
    indices,
    names,
    state,
)


class TestADerivedSampler:
    """Of a user, who only sets `shards`, or only defines `__iter__`."""

    @pytest.mark.parametrize(
        ("sampler", "expected"),
        [
            (OnlyShards(names(3)), names(3)),
            (OnlyShards(["a", ["b", "c"]]), ["a", ["b", "c"]]),
            (OnlyShards(()), []),
            (OnlyIter(2), ["epoch-4-0", "epoch-4-1"]),
            (Filtered(names(3)), ["shard-0", "shard-2"]),
            (OwnIterator(), names(3)),
            (ShardSampler(), []),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, ShardSampler) else "",
    )
    def test_deals_its_shards_to_one_rank(self, sampler, expected):
        assert sampler.deal(4) == [expected]
        assert len(sampler) == len(expected)
        assert ShuffledShardSampler(sampler, seed=1).deal(4) == [
            ShuffledShardSampler(expected, seed=1).deal(4)[0]
        ]

    @pytest.mark.parametrize("sampler", [OnlyShards(names(4)), OnlyIter(4), Filtered(names(5))])
    def test_deals_the_same_whatever_was_iterated_and_goes_on_where_it_was(self, sampler):
        expected = sampler.deal(0)
        iterator = iter(sampler)
        begun = [next(iterator), next(iterator)]
        index, epoch = sampler.index, sampler.epoch
        assert sampler.deal(0) == expected
        assert sampler.deal(7) == sampler.deal(7)
        assert (sampler.index, sampler.epoch) == (index, epoch)
        assert begun + list(iterator) == expected[0]

    def test_cannot_deal_to_several_ranks(self):
        with pytest.raises(ValueError, match="wrap it in a DistributedDataParallelShardSampler"):
            OnlyShards(names(4)).deal(0, dp_size=2)
        with pytest.raises(ValueError, match="OnlyIter has the shards of one rank, 2 were"):
            OnlyIter(4).deal(0, dp_size=2)
        assert OnlyShards(names(4)).deal(0, dp_size=1) == [names(4)]

    def test_that_yields_no_shard_is_refused(self):
        class Numbers(ShardSampler):
            def __iter__(self):
                return iter([1])

        for sampler in (OnlyShards([1]), OnlyShards([[]]), OnlyShards([["a", 2]]), Numbers()):
            with pytest.raises(TypeError, match="a shard is a str or a list of str, got"):
                sampler.deal(0)


class TestIterating:
    """A sampler by itself, as a plain loop over shards does."""

    def test_yields_the_shards_in_order_and_counts(self):
        sampler = OnlyShards(names(3))
        seen = [(sampler.index, None)]
        seen += [(sampler.index, shard) for shard in sampler]
        assert seen == [(-1, None), (0, "shard-0"), (1, "shard-1"), (2, "shard-2")]

    def test_again_is_the_next_epoch(self):
        sampler = OnlyShards(names(3))
        assert [list(sampler) for _ in range(3)] == [names(3)] * 3
        assert sampler.epoch == 2

    def test_after_leaving_early_goes_on(self):
        sampler = OnlyShards(names(4))
        for shard in sampler:
            if shard == "shard-1":
                break
        assert list(sampler) == ["shard-2", "shard-3"]
        assert list(sampler) == names(4)

    def test_of_a_rank_yields_that_ranks_shards(self):
        passes = [list(dealt(names(6), 4, rank)) for rank in range(4)]
        assert passes == [
            ["shard-0", "shard-1"],
            ["shard-2", "shard-3"],
            ["shard-4"],
            ["shard-5"],
        ]

    def test_yields_what_deal_says_of_each_epoch(self):
        sampler = dealt(ShuffledShardSampler(names(8), seed=3), 3, 1)
        assert [list(sampler) for _ in range(4)] == [sampler.deal(epoch)[1] for epoch in range(4)]

    def test_set_epoch_begins_an_epoch_and_is_nothing_in_the_middle_of_it(self):
        sampler = ShuffledShardSampler(names(5))
        iterator = iter(sampler)
        begun = [next(iterator), next(iterator)]
        sampler.set_epoch(0)
        assert begun + list(iterator) == sampler.deal(0)[0]
        sampler.set_epoch(0)
        assert list(sampler) == sampler.deal(0)[0]
        sampler.set_epoch(9)
        assert list(sampler) == sampler.deal(9)[0]

    def test_a_pass_ends_when_set_epoch_begins_another(self):
        sampler = OnlyShards(names(5))
        iterator = iter(sampler)
        next(iterator)
        sampler.set_epoch(1)
        assert list(iterator) == []
        assert list(sampler) == names(5)

    @pytest.mark.parametrize("epoch", [-1, 1.0, True, "1", None])
    def test_an_epoch_is_an_integer_from_0(self, epoch):
        with pytest.raises((TypeError, ValueError), match="epoch must be"):
            OnlyShards(names(1)).set_epoch(epoch)
        with pytest.raises((TypeError, ValueError), match="epoch must be"):
            OnlyShards(names(1)).deal(epoch)

    def test_shards_are_those_of_this_rank_in_this_epoch(self):
        sampler = ShuffledShardSampler(dealt(names(6), 2, 1))
        sampler.set_epoch(3)
        assert sampler.shards == sampler.deal(3)[1]
        assert dealt(names(6), 2, 1).shards == ["shard-3", "shard-4", "shard-5"]


class TestItsState:
    """`all_rank_indices`, one tensor for each rank."""

    def test_has_a_tensor_for_each_rank(self):
        sampler = dealt(names(6), 3, 1)
        next(iter(sampler))
        saved = sampler.state_dict()
        assert list(saved) == ["all_rank_indices"]
        assert all(
            index.dtype == torch.int64 and index.ndim == 0 for index in sampler.all_rank_indices
        )
        assert indices(sampler) == [-1, 0, -1]

    @pytest.mark.parametrize("count", range(6))
    def test_resumes_after_every_shard(self, count):
        sampler = ShuffledShardSampler(dealt(names(10), 2, 1), seed=5)
        sampler.set_epoch(2)
        iterator = iter(sampler)
        begun = [next(iterator) for _ in range(count % 5)]
        resumed = ShuffledShardSampler(dealt(names(10), 2, 1), seed=5)
        resumed.set_epoch(2)
        resumed.load_state_dict(sampler.state_dict())
        assert begun + list(resumed) == sampler.deal(2)[1]
        assert list(resumed) == sampler.deal(3)[1]

    def test_of_the_end_of_an_epoch_begins_the_next(self):
        sampler = ShuffledShardSampler(names(4))
        sampler.load_state_dict(state(3))
        assert list(sampler) == sampler.deal(1)[0]

    def test_in_the_middle_of_a_pass_moves_it(self):
        sampler = OnlyShards(names(5))
        iterator = iter(sampler)
        next(iterator)
        sampler.load_state_dict(state(2))
        assert list(iterator) == ["shard-3", "shard-4"]

    def test_keeps_the_indices_of_other_ranks(self):
        sampler = dealt(names(12), 3, 1)
        sampler.load_state_dict(state(2, 0, 1))
        assert next(iter(sampler)) == "shard-5"
        assert indices(sampler) == [2, 1, 1]

    def test_of_before_the_first_microbatch_may_be_less_than_minus_1(self):
        sampler = dealt(names(4), 2)
        sampler.load_state_dict(state(-4, -2))
        assert indices(sampler) == [-1, -1]
        assert list(sampler) == ["shard-0", "shard-1"]

    def test_is_what_the_sampler_had_when_it_was_saved(self):
        sampler = OnlyShards(names(3))
        saved = sampler.state_dict()
        list(sampler)
        assert saved == state(-1)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (None, "has the key 'all_rank_indices' alone, got a NoneType"),
            ({}, r"has the key 'all_rank_indices' alone, got \[\]"),
            ({**state(0, 0), "epoch": 1}, "alone, got .*'epoch'"),
            ({"all_rank_indices": 3}, "list of integer tensors of one element, got 3"),
            ({"all_rank_indices": [torch.tensor(0.0)] * 2}, "list of integer tensors"),
            ({"all_rank_indices": [torch.tensor(True)] * 2}, "list of integer tensors"),
            ({"all_rank_indices": [torch.tensor([0, 1])] * 2}, "list of integer tensors"),
            ({"all_rank_indices": ["0", "1"]}, "list of integer tensors"),
            (state(0), "of 1 ranks, this sampler deals to 2"),
            (state(0, 0, 0), "of 3 ranks, this sampler deals to 2"),
            (state(2, 0), r"at shard 2 \(from 0\) of rank 0, which has 2 shards now"),
        ],
    )
    def test_that_is_wrong_is_refused_and_changes_nothing(self, wrong, message):
        sampler = dealt(names(4), 2)
        next(iter(sampler))
        with pytest.raises(ValueError, match=message):
            sampler.load_state_dict(wrong)
        assert indices(sampler) == [0, -1]
