"""A producer that dies is started again; what the loader delivers does not show it."""

from __future__ import annotations

import logging
import os
import signal
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from fkat.data import DictDataLoader, ShmDataLoader
from fkat.data.errors import ProducerDiedError
from fkat.data.samplers.strategies import RoundRobin
from tests.restarts import Fragile, crash, delivered, numbers, plain, unbatched
from tests.sources import (
    EPOCHS,
    MAP_STYLE,
    NOT_OURS,
    REPLAYED,
    SEED,
    STATEFUL,
    WITH_WORKERS,
    sequential,
    shuffled,
)

FATAL = [signal.SIGKILL, signal.SIGTERM]


@pytest.mark.filterwarnings(NOT_OURS)
@pytest.mark.parametrize("factory", [*MAP_STYLE, *STATEFUL])
def test_killed_behind_every_microbatch(factory):
    expected = delivered(ShmDataLoader(SEED, factory, 2))
    every = range(len(expected) + 1)
    assert delivered(ShmDataLoader(SEED, factory, 2), kill_at=every) == expected


@pytest.mark.filterwarnings(NOT_OURS)
@pytest.mark.parametrize("factory", WITH_WORKERS)
def test_killed_with_workers(factory):
    expected = delivered(ShmDataLoader(SEED, factory, 2))
    assert delivered(ShmDataLoader(SEED, factory, 2), kill_at=(2, 7)) == expected


@pytest.mark.filterwarnings("ignore:.*read again")
@pytest.mark.parametrize("factory", REPLAYED)
def test_a_stream_without_a_state_is_replayed(factory):
    expected = delivered(ShmDataLoader(SEED, factory, 1))
    assert delivered(ShmDataLoader(SEED, factory, 1), kill_at=(3, 4, 30)) == expected


@pytest.mark.parametrize("number", FATAL, ids=lambda number: number.name)
@pytest.mark.parametrize("prefetches", [0, 1, -1])
def test_killed_by_any_signal(prefetches, number):
    expected = delivered(ShmDataLoader(SEED, shuffled, prefetches))
    loader = ShmDataLoader(SEED, shuffled, prefetches)
    assert delivered(loader, kill_at=(1, 5, 8), number=number) == expected


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_killed_under_each_start_method(method):
    expected = delivered(ShmDataLoader(SEED, shuffled, 1))
    loader = ShmDataLoader(SEED, shuffled, 1, multiprocessing_context=method)
    found = []
    for _ in range(EPOCHS):
        for microbatch in loader:
            found.append(plain(microbatch))
            if len(found) == 4:
                os.kill(loader._feed.pids[0], signal.SIGKILL)
    assert found == [microbatch for microbatch, _ in expected]
    assert loader.stats().num_restarts == 1
    loader.teardown()


@pytest.mark.parametrize("die", [crash, partial(os._exit, 0), partial(os._exit, 9)])
def test_user_code_that_ends_its_process_is_tried_again(tmp_path, die, caplog):
    dataset = Fragile(tmp_path, 6, 2, die)
    loader = ShmDataLoader(0, partial(unbatched, dataset), 2, multiprocessing_context="fork")
    with caplog.at_level(logging.WARNING, "fkat.data"):
        assert numbers(loader) == list(range(10))
    assert loader.stats().num_restarts == 2
    assert loader.stats().num_microbatches == 10
    assert [record.name for record in caplog.records] == ["fkat.data"] * 2
    for i, record in enumerate(caplog.records):
        assert f"goes on at microbatch 6 of epoch 0 (restart {i + 1} of at most 3 in a row)" in (
            record.message
        )
    loader.teardown()


@pytest.mark.parametrize("max_restarts", [0, 1, 3])
def test_a_microbatch_that_always_kills_is_an_error_after_so_many(tmp_path, max_restarts):
    dataset = Fragile(tmp_path, 4, 1000, crash)
    loader = ShmDataLoader(0, partial(unbatched, dataset), 2, max_restarts=max_restarts)
    found = [int(next(loader)) for _ in range(4)]
    with pytest.raises(ProducerDiedError, match="SIGSEGV") as caught:
        next(loader)
    assert found == list(range(4))
    assert dataset.log.stat().st_size == max_restarts + 1
    assert (f"so did {max_restarts} before it" in str(caught.value)) == (max_restarts > 0)
    assert caught.value.exit_code == -signal.SIGSEGV
    assert loader.state_dict()["microbatch"] == 4


def test_progress_makes_room_for_more_restarts(tmp_path):
    loader = ShmDataLoader(SEED, sequential, 0, max_restarts=1)
    expected = delivered(ShmDataLoader(SEED, sequential, 0))
    assert delivered(loader, kill_at=range(1, len(expected))) == expected


def test_a_factory_that_dies_at_first(tmp_path):
    dying = partial(factory_of, tmp_path / "tried", 2)
    loader = ShmDataLoader(0, dying)
    assert len(loader) == 5
    assert numbers(loader) == list(range(5))
    assert loader.stats().num_restarts == 2
    loader.teardown()


def factory_of(log, num_deaths):
    log.touch()
    if log.stat().st_size < num_deaths:
        with log.open("ab") as file:
            file.write(b".")
        os._exit(1)
    return unbatched([torch.tensor([i]) for i in range(5)])


def test_a_factory_that_always_dies_is_an_error(tmp_path):
    loader = ShmDataLoader(0, partial(factory_of, tmp_path / "tried", 1000))
    with pytest.raises(ProducerDiedError):
        next(loader)
    with pytest.raises(ProducerDiedError):
        len(loader)


def test_the_epoch_after_a_restart_is_the_next_one():
    loader = ShmDataLoader(SEED, shuffled, 2)
    expected = delivered(ShmDataLoader(SEED, shuffled, 2))
    next(loader)
    os.kill(loader._feed.pids[0], signal.SIGKILL)
    next(loader), next(loader), next(loader)
    assert plain(next(iter(loader))) == expected[len(expected) // 2][0]
    loader.teardown()


def test_an_epoch_that_was_asked_for_is_not_forgotten():
    loader = ShmDataLoader(SEED, shuffled, 0)
    next(loader)
    loader.set_epoch(5)
    os.kill(loader._feed.pids[0], signal.SIGKILL)
    next(loader)
    next(iter(loader))
    assert loader.state_dict()["epoch"] == 5
    loader.teardown()


def test_killed_after_it_was_resumed():
    expected = delivered(ShmDataLoader(SEED, shuffled, 2))
    resumed = ShmDataLoader(SEED, shuffled, 2)
    resumed.load_state_dict(expected[2][1])
    found = [plain(next(resumed))]
    os.kill(resumed._feed.pids[0], signal.SIGKILL)
    found += [plain(microbatch) for microbatch in iter(resumed.__next__, None)]
    assert found == [microbatch for microbatch, _ in expected[3 : len(expected) // 2]]
    resumed.teardown()


def test_killed_before_the_first_microbatch_of_a_resume(tmp_path):
    factory = partial(unbatched, Fragile(tmp_path, 6, 1, crash))
    loader = ShmDataLoader(0, factory, 0)
    found = [int(next(loader)) for _ in range(6)]
    resumed = ShmDataLoader(0, factory, 0)
    resumed.load_state_dict(loader.state_dict())
    loader.teardown()
    assert found + [int(m) for m in iter(resumed.__next__, None)] == list(range(10))
    assert resumed.stats().num_restarts == 1
    resumed.teardown()


@pytest.mark.parametrize("begin_at", [0, 2])
@pytest.mark.parametrize("how", ["asked for again", "failed"])
def test_an_epoch_begun_again_begins_where_it_had_begun(how, begin_at):
    expected = delivered(ShmDataLoader(SEED, shuffled, 2))
    half = [microbatch for microbatch, _ in expected[begin_at : len(expected) // 2]]
    loader = ShmDataLoader(SEED, shuffled, 2)
    if begin_at:
        loader.load_state_dict(expected[begin_at - 1][1])
    for _ in range(2):
        assert plain(next(loader)) in half
        os.kill(loader._feed.pids[0], signal.SIGKILL)
    while loader.stats().num_restarts == 0:
        next(loader)
    if how == "failed":
        loader._fail(KeyError("as if the dataset had raised it"))
    else:
        loader.set_epoch(0)
    assert [plain(microbatch) for microbatch in loader] == half
    loader.teardown()


def dicts():
    return DataLoader([{"number": i} for i in range(9)], batch_size=2)


def test_the_length_after_a_death_behind_the_last_microbatch():
    loader = ShmDataLoader(0, dicts, 0)
    assert len([next(loader) for _ in range(5)]) == 5
    os.kill(loader._feed.pids[0], signal.SIGKILL)
    with pytest.raises(StopIteration):
        next(loader)
    assert len(loader) == 5
    assert len(list(loader)) == 5
    loader.teardown()


def test_a_child_of_a_mixture():
    def new_loader():
        loaders = {name: ShmDataLoader(seed, dicts, 1) for seed, name in enumerate("ab")}
        return loaders, DictDataLoader(loaders, RoundRobin(["a", "b"]))

    def plain_of(mixed):
        return mixed["dataset"], mixed["number"].tolist()

    expected = [plain_of(microbatch) for microbatch in new_loader()[1]]
    loaders, loader = new_loader()
    found = []
    for microbatch in loader:
        found.append(plain_of(microbatch))
        if len(found) in (2, 5):
            os.kill(loaders["a"]._feed.pids[0], signal.SIGKILL)
    assert found == expected
    assert loaders["a"].stats().num_restarts == 2
    loader.teardown()
