"""Which data set comes next: Weighted, RoundRobin, Frequency."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from fkat.data.samplers.strategies import Frequency, RoundRobin, SamplerStrategy, Weighted

WEIGHTS = {"a": 5, "b": 3, "c": 2}
# What checkpoints rely on: this order never changes.
FROZEN = "aabbbbaabacabcbbbabbbabaabaaacbbaaaaacab"


def first(strategy, count):
    return list(itertools.islice(strategy, count))


def drawn(strategy, count, live="abc", epoch=0, position=0):
    """Names of the next draws, as a mixture draws them."""
    names = []
    for _ in range(count):
        name, position = strategy.draw(epoch, position, set(live))
        names.append(name)
    return names


@pytest.mark.parametrize(
    "strategy",
    [Weighted(WEIGHTS), RoundRobin(["a", "b"]), Frequency([["a", 1]])],
    ids=["weighted", "round robin", "frequency"],
)
def test_a_strategy_is_an_endless_iterator_of_plain_strings(strategy):
    assert isinstance(strategy, SamplerStrategy)
    assert iter(strategy) is strategy
    assert {type(name) for name in first(strategy, 1000)} == {str}


def test_names_given_as_numpy_strings_come_back_as_plain_ones():
    strategies = [
        RoundRobin(list(np.array(["a", "b"]))),
        Weighted({np.str_("a"): np.float32(0.5)}),
        Frequency([[np.str_("a"), np.int64(2)]]),
    ]
    assert {type(next(strategy)) for strategy in strategies} == {str}


def test_round_robin_goes_in_turn():
    assert first(RoundRobin(["a", "b", "c"]), 7) == list("abcabca")


def test_frequency_gives_so_many_of_each():
    assert first(Frequency([["a", 2], ["b", 1], ["c", 3]]), 9) == list("aabcccaab")


def test_frequency_may_name_one_twice_and_one_not_at_all():
    assert first(Frequency([["a", 1], ["b", 0], ["c", 2], ["a", 1]]), 8) == list("accaacca")


def test_a_large_frequency_is_drawn_at_once():
    strategy = Frequency([["a", 10**12], ["b", 1]])
    assert strategy.draw(0, 10**12 - 1, {"a", "b"}) == ("a", 10**12)
    assert strategy.draw(0, 0, {"b"}) == ("b", 10**12 + 1)


@pytest.mark.parametrize(
    ("strategy", "live", "expected"),
    [
        (RoundRobin(["a", "b", "c"]), "ac", "acac"),
        (RoundRobin(["a", "b", "c"]), "b", "bbbb"),
        (Frequency([["a", 2], ["b", 1], ["c", 3]]), "ab", "aaba"),
        (Frequency([["a", 2], ["b", 1], ["c", 3]]), "c", "cccc"),
        (Weighted(WEIGHTS), "b", "bbbb"),
    ],
)
def test_what_is_exhausted_is_skipped(strategy, live, expected):
    assert drawn(strategy, 4, live) == list(expected)


@pytest.mark.parametrize(
    "strategy",
    [Weighted({"a": 1, "b": 0}), Frequency([["a", 1], ["b", 0]]), RoundRobin(["a"])],
)
def test_nothing_is_drawn_when_all_that_is_left_is_never_drawn(strategy):
    assert strategy.draw(0, 0, {"b"}) is None
    assert strategy.draw(0, 0, set()) is None


def test_weighted_gives_the_same_names_forever():
    assert "".join(first(Weighted(WEIGHTS, seed=1), 40)) == FROZEN


def test_weighted_gives_the_same_names_in_another_process():
    script = (
        "from fkat.data.samplers.strategies import Weighted; import itertools;"
        f"print(*itertools.islice(Weighted({WEIGHTS}, seed=1), 40), sep='')"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == FROZEN


def test_weighted_ignores_the_global_random_generators_and_the_order_of_the_dict():
    np.random.seed(7)
    backwards = Weighted(dict(reversed(WEIGHTS.items())), seed=1)
    assert "".join(first(backwards, 40)) == FROZEN


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("live", ["abc", "ab", "bc"])
def test_weighted_draws_in_proportion_to_the_weights_that_are_left(seed, live):
    count = 20_000
    total = sum(WEIGHTS[name] for name in live)
    found = Counter(drawn(Weighted(WEIGHTS, seed=seed), count, live))
    for name in live:
        share = WEIGHTS[name] / total
        assert abs(found[name] - count * share) < 4 * math.sqrt(count * share * (1 - share))


def test_weighted_draws_are_independent():
    names = first(Weighted({"a": 1, "b": 1}), 20_000)
    pairs = Counter(itertools.pairwise(names))
    assert all(abs(pairs[pair] - 5000) < 250 for pair in itertools.product("ab", repeat=2))


def test_weights_need_not_sum_to_1_and_only_their_proportions_count():
    small, large = ({n: w * scale for n, w in WEIGHTS.items()} for scale in (1e-300, 1e300))
    expected = drawn(Weighted(WEIGHTS), 200)
    assert drawn(Weighted(small), 200) == drawn(Weighted(large), 200) == expected


def test_a_weight_of_0_is_never_drawn():
    assert set(first(Weighted({"a": 1, "b": 0, "c": 1e-9}), 5000)) == {"a"}


@pytest.mark.parametrize("live", ["ab", "bc", "a"])
def test_taking_a_name_away_changes_only_the_draws_of_that_name(live):
    strategy = Weighted(WEIGHTS, seed=3)
    whole = drawn(strategy, 500)
    rest = drawn(strategy, 500, live)
    assert [n for n in zip(whole, rest, strict=True) if n[0] in live and n[0] != n[1]] == []


def test_each_epoch_and_each_seed_has_its_own_order():
    orders = [
        drawn(Weighted(WEIGHTS, seed=seed), 100, epoch=epoch)
        for seed, epoch in itertools.product((0, 1, -1), (0, 1, 2))
    ]
    assert len({tuple(order) for order in orders}) == len(orders)


@pytest.mark.parametrize(
    "new",
    [
        lambda: Weighted(WEIGHTS, seed=4),
        lambda: RoundRobin(["a", "b", "c"]),
        lambda: Frequency([["a", 2], ["b", 3]]),
    ],
    ids=["weighted", "round robin", "frequency"],
)
def test_a_state_goes_on_where_it_was_taken_at_every_place(new):
    strategy = new()
    strategy.set_epoch(2)
    whole = first(strategy, 30)
    strategy.set_epoch(2)
    for place in range(20):
        state = strategy.state_dict()
        assert {type(value) for value in state.values()} == {int}
        restored = new()
        restored.load_state_dict(state)
        assert first(restored, 10) == whole[place : place + 10]
        next(strategy)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({"epoch": 0}, ValueError),
        ({"epoch": 0, "position": 0, "more": 0}, ValueError),
        ({"epoch": 0, "position": -1}, ValueError),
        ({"epoch": "0", "position": 1}, TypeError),
    ],
)
def test_a_wrong_state_is_refused(state, error):
    with pytest.raises(error, match=r"epoch|position"):
        RoundRobin(["a"]).load_state_dict(state)


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        ({}, ValueError, "one above 0"),
        ({"a": 0, "b": 0.0}, ValueError, "one above 0"),
        ({"a": -1, "b": 2}, ValueError, "weight of 'a'.*-1"),
        ({"a": 1, "b": math.nan}, ValueError, "weight of 'b'.*nan"),
        ({"a": math.inf}, ValueError, "weight of 'a'.*inf"),
        ({"a": "1"}, TypeError, "weight of 'a' must be a number"),
        ({"a": True}, TypeError, "weight of 'a' must be a number"),
        ({"a": None}, TypeError, "weight of 'a' must be a number"),
        ({1: 1}, TypeError, "must be str, got 1"),
        ([["a", 1]], TypeError, "weights must be a dict"),
    ],
)
def test_wrong_weights_are_refused_by_name(weights, error, text):
    with pytest.raises(error, match=text):
        Weighted(weights)


@pytest.mark.parametrize("seed", [None, 1.0, True, "1"])
def test_a_seed_that_is_no_int_is_refused(seed):
    with pytest.raises(TypeError, match="seed must be an int"):
        Weighted({"a": 1}, seed=seed)


@pytest.mark.parametrize(
    ("names", "error"),
    [([], ValueError), ("abc", TypeError), ([1], TypeError), (3, TypeError), ({"a": 1}, TypeError)],
)
def test_wrong_names_are_refused(names, error):
    with pytest.raises(error, match="names"):
        RoundRobin(names)


@pytest.mark.parametrize(
    ("freq", "error"),
    [
        ([], ValueError),
        ([["a", 0]], ValueError),
        ([["a", -1], ["b", 1]], ValueError),
        ([["a", 1.5]], TypeError),
        ([["a"]], TypeError),
        (["ab"], TypeError),
        ([["a", 1, 2]], TypeError),
        ([[1, 1]], TypeError),
        ({"a": 1}, TypeError),
    ],
)
def test_wrong_frequencies_are_refused(freq, error):
    with pytest.raises(error, match="freq"):
        Frequency(freq)
