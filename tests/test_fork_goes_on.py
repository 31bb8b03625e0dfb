"""A forked child that goes on with its parent's loader, also while a thread of it reads."""

from __future__ import annotations

import functools
import gc
import os
import threading

import pytest

from tests.forks import (
    COUNT,
    HELD,
    are_right,
    assert_unharmed,
    exit_code,
    fork,
    new_loader,
    num_leases,
)


def read(loader, held):
    assert are_right(held)


def tear_down(loader, held):
    loader.teardown()
    held.clear()
    gc.collect()


def test_forks_while_another_thread_is_inside_next():
    loader = new_loader(pause_s=0.02)
    held = [next(loader) for _ in range(HELD)]
    numbers: list[int] = []

    def iterate() -> None:
        for microbatch in iter(lambda: next(loader, None), None):
            numbers.append(int(microbatch.unique()))
            del microbatch

    thread = threading.Thread(target=iterate)
    thread.start()
    codes = []
    while thread.is_alive():
        codes.append(exit_code(fork(lambda: (read(loader, held), tear_down(loader, held)))))
    thread.join()
    assert codes == [0] * len(codes)
    assert codes
    assert numbers == list(range(HELD, COUNT))
    assert num_leases(loader) == HELD
    assert are_right(held)


def take_next(loader):
    return next(loader)


def begin_an_epoch(loader):
    return next(iter(loader))


def ask_for_length(loader):
    return len(loader)


def ask_for_stats(loader):
    return loader.stats()


def expect_an_error(loader, ask):
    with pytest.raises(RuntimeError, match=f"process {os.getppid()}"):
        ask(loader)


@pytest.mark.parametrize("ask", [take_next, begin_an_epoch, ask_for_length, ask_for_stats])
def test_a_child_that_goes_on_with_its_parents_loader_is_told(ask):
    loader = new_loader()
    held = [next(loader) for _ in range(HELD)]
    assert exit_code(fork(functools.partial(expect_an_error, loader, ask))) == 0
    assert_unharmed(loader, held)


def test_a_child_born_while_another_thread_is_inside_next_is_told_and_does_not_wait():
    loader = new_loader(pause_s=0.02)
    numbers = [int(next(loader)[0])]
    rest = iter(lambda: next(loader, None), None)
    thread = threading.Thread(target=lambda: numbers.extend(int(item[0]) for item in rest))
    thread.start()
    asked = functools.partial(expect_an_error, loader, ask_for_stats)
    codes = [exit_code(fork(asked)) for _ in range(10)]
    thread.join()
    assert codes == [0] * 10
    assert numbers == list(range(COUNT))
