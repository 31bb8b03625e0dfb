"""Epochs, early exits, several loaders: one producer and one ring for all of it."""

from __future__ import annotations

import functools
import os
import select
import threading

import psutil
import pytest
import torch

from fkat.data import ShmDataLoader

BOTH = pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])


class Numbers:
    """An iterable that says of each microbatch which epoch and process it is of."""

    def __init__(self, count, known=True):
        self.count = count
        self.epoch = None
        if known:
            self.__class__ = Sized

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        for position in range(self.count):
            yield self.epoch, position, os.getpid()


class Sized(Numbers):
    """The same with a length."""

    def __len__(self):
        return self.count


def tensors(count):
    for i in range(count):
        yield torch.full((100,), i)


def new_loader(count=5, prefetches=2, known=True, **options):
    return ShmDataLoader(0, functools.partial(Numbers, count, known), prefetches, **options)


def places(microbatches):
    """Epoch and position of each."""
    return [microbatch[:2] for microbatch in microbatches]


def epoch_of(number, count=5):
    return [(number, position) for position in range(count)]


def pid_of(loader):
    return next(loader)[2]


@BOTH
def test_each_loop_is_the_next_epoch(multiprocessing):
    loader = new_loader(multiprocessing=multiprocessing)
    assert [places(loader) for _ in range(4)] == [epoch_of(i) for i in range(4)]


def test_one_producer_serves_every_epoch():
    loader = new_loader()
    pids = {pid for _ in range(5) for _, _, pid in loader}
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_without_multiprocessing_no_process_is_started():
    assert {pid for _, _, pid in new_loader(multiprocessing=False)} == {os.getpid()}


@pytest.mark.parametrize("prefetches", [0, 1, 4, -1])
@pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
def test_leaving_early_many_times_starts_the_next_epoch_at_its_first(prefetches, multiprocessing):
    loader = new_loader(20, prefetches, multiprocessing=multiprocessing)
    for epoch in range(60):
        taken = 1 + epoch % 4
        assert [next(loader)[:2] for _ in range(taken)] == epoch_of(epoch, taken)
        iter(loader)
    assert places(loader) == epoch_of(60, 20)


@BOTH
def test_leaving_before_the_first_microbatch_uses_up_no_epoch(multiprocessing):
    loader = new_loader(multiprocessing=multiprocessing)
    for _ in range(10):
        iter(loader)
    assert places(loader) == epoch_of(0)


@BOTH
def test_breaking_out_of_a_for_loop_starts_the_next_epoch(multiprocessing):
    loader = new_loader(multiprocessing=multiprocessing)
    for epoch in range(10):
        for microbatch in loader:
            if microbatch[1] == 1:
                break
        assert microbatch[0] == epoch


@BOTH
def test_leaving_after_the_last_microbatch_but_before_stop_iteration(multiprocessing):
    loader = new_loader(3, multiprocessing=multiprocessing)
    for epoch in range(5):
        iter(loader)
        assert [next(loader)[:2] for _ in range(3)] == epoch_of(epoch, 3)


@BOTH
def test_stop_iteration_is_repeated_until_the_next_epoch_begins(multiprocessing):
    loader = new_loader(2, multiprocessing=multiprocessing)
    list(loader)
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(loader)
    assert places(loader) == epoch_of(1, 2)


@BOTH
def test_a_loader_is_its_own_iterator(multiprocessing):
    loader = new_loader(multiprocessing=multiprocessing)
    assert iter(loader) is loader
    assert next(iter(loader))[:2] == (0, 0)
    assert next(loader)[:2] == (0, 1)


@BOTH
def test_an_empty_epoch_is_empty(multiprocessing):
    loader = new_loader(0, multiprocessing=multiprocessing)
    assert [list(loader) for _ in range(3)] == [[], [], []]


@BOTH
def test_tensors_of_a_left_epoch_do_not_leak_into_the_next(multiprocessing):
    loader = ShmDataLoader(0, functools.partial(tensors, 10), 4, multiprocessing=multiprocessing)
    for _ in range(20):
        assert [int(next(loader)[0]) for _ in range(3)] == [0, 1, 2]
        iter(loader)


@BOTH
def test_two_loaders_interleaved_each_keep_their_place(multiprocessing):
    first = new_loader(4, multiprocessing=multiprocessing)
    second = new_loader(4, multiprocessing=multiprocessing)
    for epoch in range(3):
        pairs = [(one[:2], two[:2]) for one, two in zip(first, second, strict=True)]
        assert pairs == [(place, place) for place in epoch_of(epoch, 4)]


def test_a_loader_made_and_used_inside_a_thread():
    seen = []

    def train():
        loader = new_loader()
        seen.extend(places(loader) + places(loader))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == epoch_of(0) + epoch_of(1)


def test_a_producer_outlives_the_thread_that_started_it():
    loader = new_loader()
    pids = []
    thread = threading.Thread(target=lambda: pids.append(pid_of(loader)))
    thread.start()
    thread.join()
    rest = [next(loader) for _ in range(4)]
    assert places(rest) == epoch_of(0)[1:]
    assert {pid for _, _, pid in rest} == set(pids)


def test_loaders_in_several_threads_at_once():
    seen = {}

    def train(name):
        loader = new_loader(50)
        seen[name] = [places(loader) for _ in range(3)]

    threads = [threading.Thread(target=train, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {name: [epoch_of(i, 50) for i in range(3)] for name in range(4)}


@BOTH
def test_the_length_is_that_of_the_factorys_loader(multiprocessing):
    loader = new_loader(7, multiprocessing=multiprocessing)
    assert len(loader) == 7
    assert places(loader) == epoch_of(0, 7)
    assert len(loader) == 7


@BOTH
def test_asking_for_the_length_uses_up_nothing(multiprocessing):
    loader = new_loader(4, multiprocessing=multiprocessing)
    seen = []
    for microbatch in loader:
        assert len(loader) == 4
        seen.append(microbatch)
    assert places(seen) == epoch_of(0, 4)


@BOTH
def test_an_unknown_length_is_a_type_error(multiprocessing):
    loader = new_loader(known=False, multiprocessing=multiprocessing)
    with pytest.raises(TypeError, match="len"):
        len(loader)
    assert places(loader) == epoch_of(0)


@BOTH
def test_set_epoch_names_the_pass_to_come(multiprocessing):
    loader = new_loader(2, multiprocessing=multiprocessing)
    loader.set_epoch(7)
    assert places(loader) == epoch_of(7, 2)
    loader.set_epoch(3)
    assert places(loader) == epoch_of(3, 2)
    assert places(loader) == epoch_of(4, 2)


@BOTH
def test_set_epoch_before_each_loop_as_trainers_do(multiprocessing):
    loader = new_loader(2, multiprocessing=multiprocessing)
    for epoch in range(4):
        loader.set_epoch(epoch)
        assert places(loader) == epoch_of(epoch, 2)


@BOTH
def test_set_epoch_can_repeat_an_epoch(multiprocessing):
    loader = new_loader(2, multiprocessing=multiprocessing)
    assert places(loader) == epoch_of(0, 2)
    loader.set_epoch(0)
    assert places(loader) == epoch_of(0, 2)


@BOTH
def test_set_epoch_in_the_middle_of_a_pass_leaves_that_pass_alone(multiprocessing):
    loader = new_loader(3, multiprocessing=multiprocessing)
    seen = []
    for microbatch in loader:
        loader.set_epoch(5)
        seen.append(microbatch)
    assert places(seen) == epoch_of(0, 3)
    assert places(loader) == epoch_of(5, 3)


@BOTH
def test_iterating_again_after_teardown(multiprocessing):
    loader = new_loader(3, multiprocessing=multiprocessing)
    assert places(loader) == epoch_of(0, 3)
    loader.teardown()
    assert places(loader) == epoch_of(1, 3)


@BOTH
def test_teardown_in_the_middle_ends_the_epoch(multiprocessing):
    loader = new_loader(3, multiprocessing=multiprocessing)
    next(loader)
    loader.teardown()
    with pytest.raises(StopIteration):
        next(loader)
    assert places(loader) == epoch_of(1, 3)


@BOTH
def test_teardown_twice_and_before_any_use(multiprocessing):
    loader = new_loader(2, multiprocessing=multiprocessing)
    loader.teardown()
    loader.teardown("fit")
    assert places(loader) == epoch_of(0, 2)


def test_teardown_ends_the_producer():
    loader = new_loader()
    pid = pid_of(loader)
    loader.teardown()
    assert not psutil.pid_exists(pid)


def test_on_exception_ends_the_producer():
    loader = new_loader()
    pid = pid_of(loader)
    loader.on_exception(RuntimeError("the training loop has failed"))
    assert not psutil.pid_exists(pid)


def test_dropping_a_loader_ends_its_producer():
    loader = new_loader()
    pidfd = os.pidfd_open(pid_of(loader))
    del loader
    assert select.select([pidfd], [], [], 60)[0] == [pidfd]
    os.close(pidfd)


def test_ten_loaders_dropped_leave_no_process():
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    loaders = [new_loader() for _ in range(10)]
    pids = {pid_of(loader) for loader in loaders}
    assert len(pids) == 10
    loaders.clear()
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_a_tensor_kept_does_not_keep_the_producer():
    before = set(psutil.Process().children())  # such as multiprocessing's own helpers
    loader = ShmDataLoader(0, functools.partial(tensors, 10))
    kept = next(loader)
    (child,) = set(psutil.Process().children()) - before
    del loader
    assert not child.is_running()
    assert int(kept.sum()) == 0


def test_the_loader_that_a_for_loop_drops_ends_its_producer():
    for _, _, pid in new_loader():  # noqa: B007
        pass
    assert not psutil.pid_exists(pid)
