"""What cannot be pickled: a TypeError that says where it is."""

from __future__ import annotations

import threading
from collections import namedtuple
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data import ShmDataLoader

STARTED = pytest.mark.parametrize("method", ["spawn", "forkserver"])


@dataclass
class Guarded:
    tokens: torch.Tensor
    lock: Any = field(default_factory=threading.Lock)


@dataclass
class Call:
    fn: Any


Pair = namedtuple("Pair", ["left", "right"])


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


def lambda_in_a_dict_in_a_list() -> Any:
    return {"x": torch.ones(2), "meta": [1, "two", Call(lambda x: x)]}


def lock_in_a_dataclass() -> Any:
    return {"sample": Guarded(torch.ones(2))}


def generator_in_a_tuple() -> Any:
    return (torch.ones(2), (item for item in "ab"))


def lock_in_a_namedtuple() -> Any:
    return [Pair(torch.ones(2), threading.Lock())]


def lock_in_an_object() -> Any:
    return Holder(Holder(threading.Lock()))


def bare_lambda() -> Any:
    return lambda x: x


class Microbatches(Dataset):
    """Two good microbatches, then the one that ``make`` makes."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return self.make() if index == 2 else torch.full((2,), index)


class HasLock(Dataset):
    """Cannot be sent to another process, though a forked one has it."""

    def __init__(self) -> None:
        self.cache = Holder(threading.Lock())

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        with self.cache.value:
            return torch.full((2,), index)


def unbatched(dataset: Any) -> DataLoader:
    return DataLoader(dataset, batch_size=None)


def error_of_iterating(loader: ShmDataLoader) -> TypeError:
    with pytest.raises(TypeError) as caught:
        for _ in loader:
            pass
    error = caught.value
    error.__traceback__ = None  # it would keep the loader
    return error


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda_in_a_dict_in_a_list, "microbatch['meta'][2].fn"),
        (lock_in_a_dataclass, "microbatch['sample'].lock"),
        (generator_in_a_tuple, "microbatch[1]"),
        (lock_in_a_namedtuple, "microbatch[0].right"),
        (lock_in_an_object, "microbatch.value.value"),
        (bare_lambda, "microbatch (a function)"),
    ],
)
def test_the_place_in_the_microbatch_is_named(make, place):
    error = error_of_iterating(ShmDataLoader(0, partial(unbatched, Microbatches(make))))
    assert place in str(error)


def test_the_type_of_the_culprit_is_named():
    factory = partial(unbatched, Microbatches(lock_in_a_dataclass))
    assert "_thread.lock" in str(error_of_iterating(ShmDataLoader(0, factory)))


def test_a_lambda_gets_advice():
    factory = partial(unbatched, Microbatches(lambda_in_a_dict_in_a_list))
    assert "top of a module" in str(error_of_iterating(ShmDataLoader(0, factory)))


def test_microbatches_before_it_are_delivered():
    loader = ShmDataLoader(0, partial(unbatched, Microbatches(lock_in_a_dataclass)))
    assert [int(next(loader)[0]), int(next(loader)[0])] == [0, 1]
    with pytest.raises(TypeError, match="lock"):
        next(loader)


def test_the_loader_can_be_iterated_again():
    loader = ShmDataLoader(0, partial(unbatched, Microbatches(lock_in_a_dataclass)))
    error_of_iterating(loader)
    assert int(next(iter(loader))[0]) == 0


def test_in_this_process_nothing_needs_to_be_pickled():
    factory = partial(unbatched, Microbatches(lambda_in_a_dict_in_a_list))
    *_, last = ShmDataLoader(0, factory, multiprocessing=False)
    assert last["meta"][2].fn(3) == 3


@STARTED
def test_the_attribute_of_a_dataset_is_named(method):
    factory = partial(unbatched, HasLock())
    error = error_of_iterating(ShmDataLoader(0, factory, multiprocessing_context=method))
    assert "dataloader_factory.args[0].cache.value" in str(error)
    assert "_thread.lock" in str(error)


@STARTED
def test_a_lambda_for_a_factory_gets_advice(method):
    loader = ShmDataLoader(0, lambda: [1, 2], multiprocessing_context=method)
    text = str(error_of_iterating(loader))
    assert "dataloader_factory" in text
    assert "top of a module" in text
    assert "multiprocessing_context='fork'" in text


@STARTED
def test_a_closure_for_a_factory_gets_advice(method):
    data = [1, 2]

    def local_factory() -> list[int]:
        return data

    loader = ShmDataLoader(0, local_factory, multiprocessing_context=method)
    assert "top of a module" in str(error_of_iterating(loader))


@STARTED
def test_list_says_so_too(method):
    # list() asks for len() first, and takes a TypeError for "has no length".
    loader = ShmDataLoader(0, partial(unbatched, HasLock()), multiprocessing_context=method)
    with pytest.raises(TypeError, match="cache"):
        list(loader)


@STARTED
def test_the_same_error_comes_again(method):
    loader = ShmDataLoader(0, partial(unbatched, HasLock()), multiprocessing_context=method)
    assert str(error_of_iterating(loader)) == str(error_of_iterating(loader))


def test_a_profiler_that_cannot_be_sent_is_named():
    class Profiler:
        def start(self, *_: Any) -> None: ...

        stop = describe = teardown = start

    loader = ShmDataLoader(0, list, profiler=Profiler(), multiprocessing_context="spawn")
    assert "profiler" in str(error_of_iterating(loader))


def test_under_fork_a_dataset_with_a_lock_works():
    factory = partial(unbatched, HasLock())
    loader = ShmDataLoader(0, factory, multiprocessing_context="fork")
    assert [int(microbatch[0]) for microbatch in loader] == [0, 1, 2]


def test_under_fork_a_lambda_works():
    loader = ShmDataLoader(0, lambda: [1, 2], multiprocessing_context="fork")
    assert list(loader) == [1, 2]
