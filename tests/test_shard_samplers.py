"""Which shards an epoch has, in which order, and which rank reads which."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import warnings
from itertools import chain

import pytest
import torch

from fkat.data._shards.samplers import (
    DistributedDataParallelShardSampler,
    ShardSampler,
    ShuffledShardSampler,
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


class TestShuffled:
    """`ShuffledShardSampler`."""

    def test_the_order_is_written_down_here_for_every_machine_and_version(self):
        sampler = ShuffledShardSampler(list("abcdef"), seed=0)
        assert ["".join(sampler.deal(epoch)[0]) for epoch in range(4)] == ORDERS_OF_SEED_0

    def test_another_interpreter_with_another_hash_seed_has_the_same_order(self):
        script = (
            "from fkat.data._shards.samplers import ShuffledShardSampler as S;"
            "print(*S([f'shard-{i}' for i in range(50)], seed=11).deal(6)[0])"
        )
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"}
        )
        assert done.stdout.split() == ShuffledShardSampler(names(50), seed=11).deal(6)[0]

    def test_every_epoch_and_every_seed_has_an_order_of_its_own(self):
        orders = {
            tuple(ShuffledShardSampler(names(20), seed=seed).deal(epoch)[0])
            for seed in (0, 1, -1, 2**40)
            for epoch in range(5)
        }
        assert len(orders) == 20
        assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(names(20)))}

    def test_every_order_is_as_likely_as_any_other(self):
        counts = {}
        for epoch in range(3000):
            order = tuple(ShuffledShardSampler(list("abc")).deal(epoch)[0])
            counts[order] = counts.get(order, 0) + 1
        assert len(counts) == 6
        assert all(400 < count < 600 for count in counts.values())  # 500 +- 5 standard deviations

    def test_takes_nothing_from_the_global_generators(self):
        before = random.getstate(), torch.get_rng_state()
        first = ShuffledShardSampler(names(9)).deal(0)
        random.seed(1)
        torch.manual_seed(1)
        assert ShuffledShardSampler(names(9)).deal(0) == first
        random.setstate(before[0])
        torch.set_rng_state(before[1])

    def test_around_the_ranks_shuffles_within_each_block(self):
        blocks = dealt(names(30), 3).deal(0)
        shuffled = ShuffledShardSampler(dealt(names(30), 3)).deal(0)
        assert [sorted(block) for block in shuffled] == [sorted(block) for block in blocks]
        orders = [
            [block.index(s) for s in own] for block, own in zip(blocks, shuffled, strict=True)
        ]
        assert len({tuple(order) for order in orders}) == 3

    def test_within_the_ranks_deals_other_shards_each_epoch(self):
        sampler = dealt(ShuffledShardSampler(names(30)), 3)
        of_rank_0 = {frozenset(sampler.deal(epoch)[0]) for epoch in range(5)}
        assert len(of_rank_0) == 5
        assert [list(chain(*sampler.deal(epoch))) for epoch in range(5)] == [
            ShuffledShardSampler(names(30)).deal(epoch)[0] for epoch in range(5)
        ]

    @pytest.mark.parametrize("seed", [None, 1.0, "1", True])
    def test_a_seed_is_an_integer(self, seed):
        with pytest.raises(TypeError, match="seed must be an int"):
            ShuffledShardSampler(names(2), seed=seed)


ORDERS_OF_SEED_0 = ["cbfdea", "dfacbe", "eafbcd", "deafcb"]


class TestDealtToRanks:
    """`DistributedDataParallelShardSampler`."""

    @pytest.mark.parametrize("dp_size", [1, 2, 3, 4, 7])
    @pytest.mark.parametrize("count", [7, 8, 12, 13])
    def test_blocks_are_contiguous_and_nothing_is_lost(self, count, dp_size):
        blocks = dealt(names(count), dp_size).deal(0)
        assert list(chain(*blocks)) == names(count)
        lengths = [len(block) for block in blocks]
        assert len(lengths) == dp_size
        assert lengths == sorted(lengths, reverse=True)
        assert max(lengths) - min(lengths) <= 1

    def test_six_shards_on_four_ranks(self):
        lengths = [len(dealt(names(6), 4, rank)) for rank in range(4)]
        assert lengths == [2, 2, 1, 1]

    def test_drop_last_makes_blocks_equal_and_says_what_it_drops(self):
        with pytest.warns(UserWarning, match="3 of 11 shards are left out.*4 ranks have 2 each"):
            sampler = DistributedDataParallelShardSampler(names(11), 4, 1)
        assert sampler.deal(0) == [names(8)[i : i + 2] for i in (0, 2, 4, 6)]

    def test_drop_last_says_nothing_where_nothing_is_dropped(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sampler = DistributedDataParallelShardSampler(names(8), 4, 3)
        assert list(sampler) == ["shard-6", "shard-7"]

    @pytest.mark.parametrize("dp_size", [1, 2, 3, 4])
    def test_deals_to_other_numbers_of_ranks_as_their_own_sampler_would(self, dp_size):
        for written_by in (1, 2, 3, 4):
            for shards in (names(12), ShuffledShardSampler(names(12))):
                sampler = DistributedDataParallelShardSampler(shards, written_by, 0)
                theirs = DistributedDataParallelShardSampler(shards, dp_size, 0)
                assert sampler.deal(5, dp_size) == theirs.deal(5)
                outer = ShuffledShardSampler(sampler, seed=2)
                assert outer.deal(5, dp_size) == ShuffledShardSampler(theirs, seed=2).deal(5)

    @pytest.mark.parametrize("drop_last", [True, False])
    def test_fewer_shards_than_ranks_is_an_error_with_both_numbers(self, drop_last):
        with pytest.raises(ValueError, match="3 shards cannot be dealt to 4 ranks"):
            DistributedDataParallelShardSampler(names(3), 4, 0, drop_last)
        with pytest.raises(ValueError, match="3 shards cannot be dealt to 5 ranks"):
            DistributedDataParallelShardSampler(names(3), 3, 0, drop_last).deal(0, dp_size=5)

    @pytest.mark.parametrize(
        ("count", "expected"),
        [
            (0, [["a", "b", "c"], ["d", "e"]]),
            (1, [[["a"], ["b"], ["c"]], [["d"], ["e"]]]),
            (2, [[["a", "b"], ["c"]], [["d", "e"]]]),
            (9, [[["a", "b", "c"]], [["d", "e"]]]),
            (-1, [[["a", "b", "c"]], [["d", "e"]]]),
        ],
    )
    def test_num_uri_merge_joins_within_a_block(self, count, expected):
        assert dealt(list("abcde"), 2, num_uri_merge=count).deal(0) == expected

    def test_num_uri_merge_joins_shards_that_are_lists(self):
        shards = [["a", "b"], "c", ["d"], ["e", "f"]]
        assert dealt(shards, 2, num_uri_merge=2).deal(0) == [[["a", "b", "c"]], [["d", "e", "f"]]]
        assert shards == [["a", "b"], "c", ["d"], ["e", "f"]]

    @pytest.mark.parametrize(
        ("dp_size", "dp_rank", "message"),
        [
            (0, 0, "dp_size must be at least 1, got 0"),
            (2, 2, "dp_rank must be at most 1, got 2"),
            (2, -1, "dp_rank must be at least 0, got -1"),
        ],
    )
    def test_a_rank_out_of_bounds_is_refused(self, dp_size, dp_rank, message):
        with pytest.raises(ValueError, match=message):
            DistributedDataParallelShardSampler(names(4), dp_size, dp_rank)

    def test_what_is_dealt_is_not_dealt_again(self):
        with pytest.raises(ValueError, match="sampler deals to 2 ranks already"):
            dealt(dealt(names(8), 2), 2)
        with pytest.raises(ValueError, match="sampler deals to 2 ranks already"):
            dealt(ShuffledShardSampler(dealt(names(8), 2)), 2)

    @pytest.mark.parametrize(
        ("options", "name"),
        [
            ({"dp_size": "2"}, "dp_size"),
            ({"dp_rank": 0.0}, "dp_rank"),
            ({"drop_last": 1}, "drop_last"),
            ({"num_uri_merge": None}, "num_uri_merge"),
            ({"sampler": "shard-0"}, "sampler"),
            ({"sampler": 3}, "sampler"),
            ({"sampler": ["a", 3]}, "sampler"),
            ({"sampler": {"a", "b"}}, "sampler"),
        ],
    )
    def test_arguments_of_a_wrong_type_are_refused_by_name(self, options, name):
        arguments = {"sampler": names(2), "dp_size": 1, "dp_rank": 0, **options}
        with pytest.raises(TypeError, match=f"^{name}"):
            DistributedDataParallelShardSampler(**arguments)


def test_samplers_can_be_pickled():
    sampler = ShuffledShardSampler(dealt(OnlyShards(names(6)), 2, 1), seed=4)
    list(sampler)
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy.deal(3) == sampler.deal(3)
    assert list(copy) == sampler.deal(1)[1]
