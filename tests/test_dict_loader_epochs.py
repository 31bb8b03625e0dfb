"""Epochs, lengths, hooks and errors of a mixture of loaders."""

from __future__ import annotations

import itertools

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from fkat.data import DictDataLoader
from fkat.data.errors import StalledError
from fkat.data.samplers.strategies import RoundRobin, Weighted
from tests.dict_loaders import BOTH, Dicts, Fails, Stalls, places, rows, seen, shm

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
