"""Microbatches of several loaders, mixed by a strategy: which come, in which order."""

from __future__ import annotations

import itertools
from collections import OrderedDict, UserDict
from types import MappingProxyType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fkat.data
from fkat.data import DictDataLoader
from fkat.data.samplers.strategies import Frequency, RoundRobin, Weighted
from tests.dict_loaders import Dicts, places, rows, seen


def test_it_is_exported():
    assert fkat.data.DictDataLoader is DictDataLoader


def test_each_microbatch_gets_the_name_of_its_loader():
    loader = DictDataLoader({"a": rows(2), "b": rows(3)}, RoundRobin(["a", "b"]))
    assert list(loader) == [
        {"x": 0, "dataset": "a"},
        {"x": 0, "dataset": "b"},
        {"x": 1, "dataset": "a"},
        {"x": 1, "dataset": "b"},
        {"x": 2, "dataset": "b"},
    ]
    assert len(loader) == 5


@pytest.mark.parametrize(
    ("strategy", "lengths", "expected"),
    [
        (RoundRobin(["a", "b"]), {"a": 1, "b": 3}, "abbb"),
        (Frequency([["a", 2], ["b", 1]]), {"a": 3, "b": 3}, "aababb"),
        (Frequency([["a", 2], ["b", 0]]), {"a": 3, "b": 3}, "aaa"),
        (Weighted({"a": 1, "b": 0}), {"a": 2, "b": 5}, "aa"),
        (RoundRobin(["a", "b"]), {"a": 0, "b": 0}, ""),
        (["a", "b", "b", "a"], {"a": 5, "b": 1}, "aba"),
        (itertools.cycle("ab"), {"a": 3, "b": 1}, "abaa"),
        (iter("aab"), {"a": 1, "b": 5}, "ab"),
    ],
)
def test_an_exhausted_loader_is_skipped_and_each_epoch_begins_anew(strategy, lengths, expected):
    loader = DictDataLoader({name: Dicts(n) for name, n in lengths.items()}, strategy)
    for epoch in range(3):
        assert seen(loader, "place") == places(epoch, expected)


def test_weighted_mixes_as_its_draws_say_and_otherwise_in_each_epoch():
    strategy = Weighted({"a": 2, "b": 1}, seed=5)
    loader = DictDataLoader({"a": rows(100), "b": rows(100)}, strategy)
    for epoch in range(2):
        strategy.set_epoch(epoch)
        expected = list(itertools.islice(strategy, 60))
        assert [next(loader)["dataset"] for _ in range(60)] == expected
        iter(loader)


def test_two_mixtures_may_share_a_strategy():
    strategy = RoundRobin(["a", "b"])
    one, two = (DictDataLoader({"a": rows(3), "b": rows(3)}, strategy) for _ in "12")
    pairs = list(zip(seen(one), seen(two), strict=True))
    assert [first for first, _ in pairs] == [second for _, second in pairs]


def test_a_mixture_of_mixtures():
    inner = DictDataLoader({"a": Dicts(2), "b": Dicts(1)}, RoundRobin(["a", "b"]), key="inner")
    outer = DictDataLoader({"m": inner, "c": Dicts(2)}, RoundRobin(["m", "c"]))
    for epoch in range(2):
        found = [(b["dataset"], b.get("inner"), b["place"]) for b in outer]
        assert found == [
            ("m", "a", (epoch, 0)),
            ("c", None, (epoch, 0)),
            ("m", "b", (epoch, 0)),
            ("c", None, (epoch, 1)),
            ("m", "a", (epoch, 1)),
        ]


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["weighted", "frequency", "round robin", "endless"]),
    lengths=st.dictionaries(st.sampled_from("abcde"), st.integers(0, 12), min_size=1),
)
def test_every_sample_comes_exactly_once_and_in_its_loaders_order(kind, lengths):
    names = list(lengths)
    strategy = {
        "weighted": Weighted({name: 1 + i for i, name in enumerate(names)}),
        "frequency": Frequency([[name, 1 + i] for i, name in enumerate(names)]),
        "round robin": RoundRobin(names),
        "endless": itertools.cycle(names),
    }[kind]
    loader = DictDataLoader({name: rows(n) for name, n in lengths.items()}, strategy)
    for _ in range(2):
        found = seen(loader)
        assert len(found) == len(loader)
        for name, count in lengths.items():
            assert [x for n, x in found if n == name] == list(range(count))


# What is done to a microbatch.


def test_the_loaders_own_dict_is_left_alone():
    data = rows(2)
    loader = DictDataLoader({"a": data}, ["a", "a"])
    assert seen(loader) == seen(loader) == [("a", 0), ("a", 1)]
    assert data == rows(2)


@pytest.mark.parametrize("made", [dict, OrderedDict, UserDict], ids=lambda made: made.__name__)
def test_a_dict_stays_of_its_class_and_its_values_the_same_objects(made):
    tensor = torch.zeros(2)
    original = made(x=tensor)
    (named,) = DictDataLoader({"a": [original]}, ["a"])
    assert type(named) is made
    assert named["x"] is tensor
    assert named["dataset"] == "a"
    assert "dataset" not in original


def test_a_mapping_that_cannot_be_written_to_becomes_a_dict():
    (named,) = DictDataLoader({"a": [MappingProxyType({"x": 1})]}, ["a"], key="from")
    assert named == {"x": 1, "from": "a"}
    assert type(named) is dict


@pytest.mark.parametrize(
    ("microbatch", "text"),
    [
        ([1, 2], "loader 'a' must give dicts, to get the key 'k'; it gave a list"),
        ({"k": 1}, "a microbatch of loader 'a' already has the key 'k'"),
    ],
)
def test_a_microbatch_that_cannot_get_the_name_is_an_error(microbatch, text):
    loader = DictDataLoader({"a": [microbatch]}, ["a"], key="k")
    with pytest.raises(RuntimeError, match=text):
        next(loader)
