"""Shards shuffled and dealt to ranks."""

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
    ShuffledShardSampler,
)
from tests.shard_samplers import OnlyShards, dealt, names


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
