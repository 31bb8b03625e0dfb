"""Microbatches of several loaders, mixed by a strategy: which come, in which order."""

from __future__ import annotations

import functools
import itertools
import os
from collections import OrderedDict, UserDict
from types import MappingProxyType

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

import fkat.data
from fkat.data import DictDataLoader, ShmDataLoader
from fkat.data.errors import StalledError
from fkat.data.samplers.strategies import Frequency, RoundRobin, Weighted

BOTH = pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])


class Dicts:
    """An iterable that says of each microbatch which epoch and process it is of."""

    def __init__(self, count):
        self.count = count
        self.epoch = None
        self.heard = []

    def __iter__(self):
        for position in range(self.count):
            yield {"place": (self.epoch, position), "pid": os.getpid()}

    def set_epoch(self, epoch):
        self.epoch = epoch

    def set_device(self, device):
        self.heard.append(("set_device", device))

    def teardown(self, *args):
        self.heard.append(("teardown", *args))

    def on_exception(self, exception):
        self.heard.append(("on_exception", exception))


class Fails:
    """Raises in its second microbatch, so many times."""

    def __init__(self, error, times=1):
        self.error = error
        self.times = times

    def __iter__(self):
        yield {"x": 0}
        if self.times > 0:
            self.times -= 1
            raise self.error
        yield {"x": 1}


class Stalls:
    """Its own iterator; every other ``next()`` has to be asked again."""

    def __init__(self):
        self.calls = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.calls += 1
        if self.calls % 2:
            raise StalledError("nothing yet")
        if self.calls > 6:
            raise StopIteration
        return {"x": self.calls // 2}


def rows(count):
    return [{"x": i} for i in range(count)]


def shm(count, multiprocessing, **options):
    factory = functools.partial(Dicts, count)
    return ShmDataLoader(0, factory, multiprocessing=multiprocessing, **options)


def seen(loader, field="x"):
    return [(batch["dataset"], batch[field]) for batch in loader]


def places(epoch, names):
    """What a pass over `Dicts` gives when these are the names."""
    counts = dict.fromkeys(names, -1)
    found = []
    for name in names:
        counts[name] += 1
        found.append((name, (epoch, counts[name])))
    return found


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


# Epochs.


def test_the_loader_is_its_own_iterator_and_beginning_is_lazy():
    loader = DictDataLoader({"a": Dicts(3)}, ["a"] * 3)
    assert iter(loader) is loader
    for _ in range(5):
        iter(loader)
    assert next(iter(loader))["place"] == (0, 0)
    assert next(loader)["place"] == (0, 1)
    assert next(iter(loader))["place"] == (1, 0)


def test_stop_iteration_is_repeated_until_the_next_epoch_begins():
    loader = DictDataLoader({"a": Dicts(1)}, itertools.repeat("a"))
    list(loader)
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(loader)
    assert seen(loader, "place") == [("a", (1, 0))]


def test_set_epoch_names_the_pass_to_come_for_every_loader():
    loader = DictDataLoader({"a": Dicts(2), "b": Dicts(1)}, RoundRobin(["a", "b"]))
    loader.set_epoch(7)
    assert seen(loader, "place") == places(7, "aba")
    loader.set_epoch(3)
    assert seen(loader, "place") == places(3, "aba")
    assert seen(loader, "place") == places(4, "aba")


def test_set_epoch_in_the_middle_of_a_pass_leaves_that_pass_alone():
    loader = DictDataLoader({"a": Dicts(2), "b": Dicts(1)}, RoundRobin(["a", "b"]))
    found = []
    for batch in loader:
        loader.set_epoch(5)
        found.append((batch["dataset"], batch["place"]))
    assert found == places(0, "aba")
    assert seen(loader, "place") == places(5, "aba")


@BOTH
def test_loaders_are_always_at_the_mixtures_epoch(multiprocessing):
    # The list ends before b is exhausted.
    loaders = {name: shm(3, multiprocessing) for name in "ab"}
    loader = DictDataLoader(loaders, ["a", "a", "a", "b"])
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert seen(loader, "place") == places(epoch, "aaab")
    iter(loader)
    assert next(loader)["place"] == (3, 0)
    iter(loader)
    assert seen(loader, "place") == places(4, "aaab")


def test_a_sampler_inside_a_plain_data_loader_is_told_the_epoch():
    data = [{"x": i} for i in range(50)]
    sampler = DistributedSampler(data, num_replicas=1, rank=0)
    loader = DictDataLoader({"a": DataLoader(data, sampler=sampler)}, itertools.repeat("a"))
    orders = [[int(batch["x"]) for batch in loader] for _ in range(2)]
    assert orders[0] != orders[1]
    assert sampler.epoch == 1


# Length.


@pytest.mark.parametrize("count", [0, 3])
def test_the_length_is_that_of_all_loaders_that_are_drawn(count):
    loaders = {"a": rows(count), "b": rows(2), "c": Dicts(5)}
    assert len(DictDataLoader(loaders, Weighted({"a": 1, "b": 1, "c": 0}))) == count + 2


def test_an_unknown_length_is_a_type_error_that_names_the_loader():
    with pytest.raises(TypeError, match="loader 'b' has no len"):
        len(DictDataLoader({"a": rows(1), "b": Dicts(2)}, RoundRobin(["a", "b"])))


def test_the_length_of_a_list_strategy_is_that_of_the_turns_taken():
    assert len(DictDataLoader({"a": rows(9), "b": rows(1)}, ["a", "b", "b", "a"])) == 3


# Hooks.


def test_hooks_and_statistics_reach_every_loader_that_has_them():
    heard = Dicts(1)
    ring = shm(2, multiprocessing=False)
    loader = DictDataLoader({"a": heard, "b": rows(1), "c": ring}, RoundRobin(["a", "b", "c"]))
    error = RuntimeError("the training loop has failed")
    loader.set_device(torch.device("meta"))
    assert len(list(loader)) == 4
    assert loader.stats() == ring.stats()
    assert loader.stats().num_microbatches == 2
    loader.teardown("fit")
    loader.on_exception(error)
    assert heard.heard == [
        ("set_device", torch.device("meta")),
        ("teardown", "fit"),
        ("on_exception", error),
    ]


@pytest.mark.parametrize("name", ["dataset", "sampler", "_iterator"])
def test_it_has_no_attribute_that_lightning_acts_on(name):
    assert not hasattr(DictDataLoader({"a": rows(1)}, ["a"]), name)


@BOTH
def test_teardown_in_the_middle_ends_the_epoch(multiprocessing):
    loader = DictDataLoader({"a": shm(2, multiprocessing), "b": Dicts(2)}, ["a", "b", "b", "a"])
    next(loader)
    loader.teardown()
    with pytest.raises(StopIteration):
        next(loader)
    assert seen(loader, "place") == places(1, "abba")


@BOTH
def test_teardown_before_any_use_changes_nothing(multiprocessing):
    loader = DictDataLoader({"a": shm(2, multiprocessing), "b": Dicts(2)}, ["a", "b", "b", "a"])
    iter(loader)
    loader.teardown()
    loader.teardown("fit")
    assert seen(loader, "place") == places(0, "abba")


def test_teardown_ends_the_workers_of_a_plain_data_loader(wait_until):
    before = set(psutil.Process().children())  # such as multiprocessing's own helpers
    loader = DictDataLoader({"a": DataLoader(rows(8), num_workers=2)}, itertools.repeat("a"))
    next(loader)
    workers = set(psutil.Process().children()) - before
    assert len(workers) == 2
    loader.teardown()
    wait_until(lambda: not any(worker.is_running() for worker in workers))


# Errors.


@pytest.mark.parametrize("error", [ValueError("user"), KeyError("k"), OSError(5, "disk")])
def test_an_error_of_a_loader_comes_as_it_is_and_iter_begins_the_epoch_again(error):
    loader = DictDataLoader({"a": Fails(error), "b": rows(2)}, RoundRobin(["b", "a"]))
    assert [next(loader)["dataset"] for _ in range(3)] == ["b", "a", "b"]
    with pytest.raises(type(error)) as caught:
        next(loader)
    assert caught.value is error
    with pytest.raises(RuntimeError, match="this epoch has failed"):
        next(loader)
    assert seen(loader) == [("b", 0), ("a", 0), ("b", 1), ("a", 1)]


class StopsAtOnce:
    """Its ``iter()`` raises what would end a loop silently."""

    def __iter__(self):
        raise StopIteration


def test_stop_iteration_from_iter_does_not_end_the_epoch_silently():
    loader = DictDataLoader({"a": rows(2), "b": StopsAtOnce()}, RoundRobin(["a", "b"]))
    with pytest.raises(RuntimeError, match=r"iter\(\) of loader 'b' raised StopIteration"):
        next(loader)


def test_a_stalled_loader_is_asked_again():
    loader = DictDataLoader({"a": Stalls(), "b": rows(3)}, RoundRobin(["a", "b"]))
    found = []
    for _ in range(6):
        try:
            found.append(next(loader)["dataset"])
        except StalledError:
            found.append("stalled")
    assert found == ["stalled", "a", "b", "stalled", "a", "b"]


def test_a_strategy_that_never_names_what_is_left_is_an_error_that_teaches():
    loader = DictDataLoader({"a": rows(1), "b": rows(1)}, itertools.repeat("a"))
    next(loader)
    with pytest.raises(RuntimeError, match=r"only exhausted loaders.*'b' would have more"):
        next(loader)


def test_a_name_that_is_no_loaders_is_an_error_when_it_is_drawn():
    loader = DictDataLoader({"a": rows(2), "b": rows(1)}, iter(["a", "c"]))
    next(loader)
    with pytest.raises(ValueError, match="named 'c', but the loaders are 'a', 'b'"):
        next(loader)


@pytest.mark.parametrize(
    ("strategy", "error", "text"),
    [
        (RoundRobin(["a"]), ValueError, "never names 'b'"),
        (Weighted({"a": 1, "b": 1, "c": 0}), ValueError, "names 'c'; the loaders are 'a', 'b'"),
        (["a", "c"], ValueError, "names 'c'"),
        ("ab", TypeError, "strategy must be"),
        (3, TypeError, "strategy must be"),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused_at_once(strategy, error, text):
    with pytest.raises(error, match=text):
        DictDataLoader({"a": rows(1), "b": rows(1)}, strategy)


@pytest.mark.parametrize("loaders", [{}, [rows(1)], {"a": 3}, {1: rows(1)}, None])
def test_dataloaders_that_are_none_are_refused(loaders):
    with pytest.raises(TypeError, match="dataloaders must be a dict"):
        DictDataLoader(loaders, ["a"])


def test_a_key_that_is_no_str_is_refused():
    with pytest.raises(TypeError, match="key must be a str"):
        DictDataLoader({"a": rows(1)}, ["a"], key=3)
