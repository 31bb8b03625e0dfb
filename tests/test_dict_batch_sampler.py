"""Batches of indices from several samplers, mixed by a strategy."""

from __future__ import annotations

import functools
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, SequentialSampler

from fkat.data import ShmDataLoader
from fkat.data.datasets import DictDataset
from fkat.data.samplers import DictBatchSampler, SizedSampler
from fkat.data.samplers.strategies import Frequency, RoundRobin, Weighted


def batches(count, size=1):
    """A sampler of ``count`` batches of ``size`` indices."""
    return BatchSampler(SequentialSampler(range(count * size)), size, drop_last=False)


def names_of(sampler):
    return "".join(name for name, _ in sampler)


class Shuffled:
    """A sampler whose order is that of its epoch."""

    def __init__(self, count):
        self.count = count
        self.epoch = None

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter([[self.epoch, i] for i in range(self.count)])

    def set_epoch(self, epoch):
        self.epoch = epoch


class FromEpoch:
    """A strategy that begins with another name in each epoch."""

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return itertools.islice(itertools.cycle("abc"), self.epoch, None)


def test_each_batch_comes_with_the_name_of_its_sampler():
    sampler = DictBatchSampler(RoundRobin(["a", "b"]), {"a": batches(2, 3), "b": batches(1, 2)})
    assert list(sampler) == [("a", [0, 1, 2]), ("b", [0, 1]), ("a", [3, 4, 5])]
    assert len(sampler) == 3
    assert isinstance(sampler, SizedSampler)


@pytest.mark.parametrize(
    ("strategy", "lengths", "expected"),
    [
        (RoundRobin(["a", "b"]), {"a": 1, "b": 3}, "abbb"),
        (RoundRobin(["b", "a"]), {"a": 2, "b": 1}, "baa"),
        (Frequency([["a", 2], ["b", 1]]), {"a": 3, "b": 3}, "aababb"),
        (Frequency([["a", 2], ["b", 0]]), {"a": 3, "b": 3}, "aaa"),
        (Weighted({"a": 1, "b": 0}), {"a": 2, "b": 5}, "aa"),
        (RoundRobin(["a", "b"]), {"a": 0, "b": 2}, "bb"),
        (RoundRobin(["a", "b"]), {"a": 0, "b": 0}, ""),
        (["a", "b", "b", "a"], {"a": 5, "b": 1}, "aba"),
        (["a", "a"], {"a": 5, "b": 1}, "aa"),
        ([], {"a": 5}, ""),
        (FromEpoch(), {"a": 2, "b": 1, "c": 1}, "abca"),
    ],
)
def test_an_exhausted_sampler_is_skipped_and_the_length_is_right(strategy, lengths, expected):
    sampler = DictBatchSampler(strategy, {name: batches(n) for name, n in lengths.items()})
    assert names_of(sampler) == expected
    assert len(sampler) == len(expected)


@pytest.mark.parametrize(
    "names",
    [itertools.cycle("ab"), (name for name in "ab" * 10), list("ab" * 10), tuple("ab" * 10)],
    ids=["endless iterator", "generator", "list", "tuple"],
)
def test_any_iterable_of_names_begins_anew_each_epoch(names):
    sampler = DictBatchSampler(names, {"a": batches(3), "b": batches(1)})
    assert [names_of(sampler) for _ in range(3)] == ["abaa"] * 3


def test_each_iteration_is_the_next_epoch_and_samplers_are_told():
    sampler = DictBatchSampler(FromEpoch(), {name: Shuffled(1) for name in "abc"})
    assert [list(sampler) for _ in range(3)] == [
        [("a", [0, 0]), ("b", [0, 0]), ("c", [0, 0])],
        [("b", [1, 0]), ("c", [1, 0]), ("a", [1, 0])],
        [("c", [2, 0]), ("a", [2, 0]), ("b", [2, 0])],
    ]


def test_set_epoch_names_the_iteration_to_come():
    weighted = DictBatchSampler(Weighted({"a": 1, "b": 1}), {"a": batches(20), "b": batches(20)})
    epochs = [names_of(weighted) for _ in range(4)]
    assert len(set(epochs)) == 4
    for epoch in (2, 0, 3):
        weighted.set_epoch(epoch)
        assert names_of(weighted) == epochs[epoch]
    weighted.set_epoch(1)
    assert [names_of(weighted), names_of(weighted)] == epochs[1:3]


def test_set_epoch_reaches_the_sampler_inside_a_batch_sampler():
    inner = DistributedSampler(range(50), num_replicas=1, rank=0, shuffle=True)
    sampler = DictBatchSampler(["a"] * 5, {"a": BatchSampler(inner, 10, drop_last=False)})
    epochs = [list(sampler) for _ in range(2)]
    assert epochs[0] != epochs[1]
    sampler.set_epoch(0)
    assert inner.epoch == 0
    assert list(sampler) == epochs[0]


def test_two_iterations_at_once_do_not_disturb_one_another():
    for strategy in (Weighted({"a": 1, "b": 1}), itertools.cycle("aab")):
        sampler = DictBatchSampler(strategy, {"a": batches(9), "b": batches(9)})
        expected = [list(sampler), list(sampler)]
        sampler.set_epoch(0)
        first, second = iter(sampler), iter(sampler)
        together = list(zip(first, second, strict=True))
        assert [list(each) for each in zip(*together, strict=True)] == expected


def test_one_strategy_may_serve_two_samplers():
    strategy = Weighted({"a": 1, "b": 1})
    one, two = (DictBatchSampler(strategy, {"a": batches(9), "b": batches(9)}) for _ in "12")
    assert [a for a, b in zip(one, two, strict=True) if a != b] == []


def test_a_strategy_that_never_names_what_is_left_is_an_error_that_teaches():
    sampler = DictBatchSampler(itertools.repeat("a"), {"a": batches(2), "b": batches(1)})
    drawn = iter(sampler)
    assert [next(drawn), next(drawn)] == [("a", [0]), ("a", [1])]
    with pytest.raises(RuntimeError, match=r"only exhausted loaders.*'b' would have more"):
        next(drawn)


def test_a_name_that_is_no_samplers_is_an_error_when_it_is_drawn():
    sampler = DictBatchSampler(iter(["a", "c"]), {"a": batches(2), "b": batches(1)})
    drawn = iter(sampler)
    assert next(drawn) == ("a", [0])
    with pytest.raises(ValueError, match="named 'c', but the loaders are 'a', 'b'"):
        next(drawn)


@pytest.mark.parametrize(
    ("strategy", "error", "text"),
    [
        (RoundRobin(["a"]), ValueError, r"RoundRobin\(\['a'\]\) never names 'b'"),
        (Weighted({"a": 1}), ValueError, "never names 'b'.*with 0"),
        (Frequency([["b", 1]]), ValueError, "never names 'a'"),
        (Weighted({"a": 1, "b": 1, "c": 0}), ValueError, "names 'c'; the loaders are 'a', 'b'"),
        (["a", "d", "c"], ValueError, "names 'd', 'c'; the loaders are 'a', 'b'"),
        ("ab", TypeError, "strategy must be an iterable of names"),
        (None, TypeError, "strategy must be an iterable of names"),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused_at_once(strategy, error, text):
    with pytest.raises(error, match=text):
        DictBatchSampler(strategy, {"a": batches(1), "b": batches(1)})


@pytest.mark.parametrize("samplers", [{}, [batches(1)], {"a": iter([[0]])}, {1: batches(1)}, None])
def test_samplers_that_are_none_are_refused(samplers):
    with pytest.raises(TypeError, match="samplers must be a dict"):
        DictBatchSampler(["a"], samplers)


def made_strategy(kind, names):
    if kind == "weighted":
        return Weighted({name: 1 + i for i, name in enumerate(names)})
    if kind == "frequency":
        return Frequency([[name, 1 + i] for i, name in enumerate(names)])
    return {"round robin": RoundRobin(names), "endless": itertools.cycle(names)}[kind]


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["weighted", "frequency", "round robin", "endless"]),
    lengths=st.dictionaries(st.sampled_from("abcde"), st.integers(0, 12), min_size=1),
)
def test_every_batch_comes_exactly_once_and_in_its_samplers_order(kind, lengths):
    samplers = {name: batches(n) for name, n in lengths.items()}
    sampler = DictBatchSampler(made_strategy(kind, list(lengths)), samplers)
    for _ in range(2):
        found = list(sampler)
        assert len(found) == len(sampler)
        for name, count in lengths.items():
            assert [batch for n, batch in found if n == name] == [[i] for i in range(count)]


def samples(name, count):
    return [{"id": f"{name}{i}"} for i in range(count)]


def mixed_loader(num_workers=0):
    data = {"a": samples("a", 7), "b": samples("b", 4)}
    samplers = {name: batches(-(-len(d) // 2), 2) for name, d in data.items()}
    samplers["a"] = BatchSampler(SequentialSampler(data["a"]), 2, drop_last=False)
    sampler = DictBatchSampler(Weighted({"a": 1, "b": 1}), samplers)
    return DataLoader(DictDataset(data), batch_sampler=sampler, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_it_is_the_batch_sampler_of_a_data_loader(num_workers):
    loader = mixed_loader(num_workers)
    found = list(loader)
    assert len(loader) == len(found) == 6
    assert all(len(set(batch["dataset"])) == 1 for batch in found)
    ids = Counter(sample for batch in found for sample in batch["id"])
    assert ids == Counter([f"a{i}" for i in range(7)] + [f"b{i}" for i in range(4)])


def ids_of(loader):
    return [batch["id"] for batch in loader]


@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_it_resumes_exactly_in_a_shm_data_loader_at_every_step(multiprocessing):
    new = functools.partial(ShmDataLoader, 0, mixed_loader, multiprocessing=multiprocessing)
    whole = new()
    epochs = [ids_of(whole), ids_of(whole)]
    assert epochs[0] != epochs[1]
    loader = new()
    for epoch in range(2):
        iter(loader)
        for step in range(6):
            resumed = new()
            resumed.load_state_dict(loader.state_dict())
            assert ids_of(resumed) == epochs[epoch][step:]
            next(loader)
