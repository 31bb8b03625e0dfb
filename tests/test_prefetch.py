"""How far the producer runs ahead, and microbatches of every size."""

from __future__ import annotations

import functools
import multiprocessing

import pytest
import torch

from fkat.data import ShmDataLoader, _core

FORK = multiprocessing.get_context("fork")
MIB = 1 << 20
GB = 10**9

# Empty ones, tiny ones, some that a slot must grow for, some that it then is too large for.
SIZES = [0, 1, 100, 0, 4096, 65_537, MIB, 300 * MIB, 0, 5, 3 * MIB, 64 * MIB, 7, 0]


class Ledger:
    """What the producer has made and the trainer has asked for, seen by both."""

    def __init__(self):
        self.made = FORK.Semaphore(0)  # released once for each microbatch
        self.num_made = FORK.Value("q", 0)
        self.num_asked = FORK.Value("q", 0)
        self.most_ahead = FORK.Value("q", 0)

    def microbatches(self, count, nbytes):
        for i in range(count):
            self.num_made.value += 1
            ahead = self.num_made.value - self.num_asked.value
            self.most_ahead.value = max(self.most_ahead.value, ahead)
            self.made.release()
            yield torch.full((nbytes,), i % 100, dtype=torch.uint8)

    def ask(self, loader):
        # Counted before it is granted: one that is made early can only look as late as it is.
        self.num_asked.value += 1
        return next(loader)

    def await_made(self, count):
        for _ in range(count):
            assert self.made.acquire(timeout=60)

    def await_idle(self):
        """Wait until nothing more is made; there is no event for what must not happen."""
        while self.made.acquire(timeout=0.3):
            pass
        return self.num_made.value


def new_loader(ledger, prefetches, count=40, nbytes=100, **options):
    factory = functools.partial(ledger.microbatches, count, nbytes)
    return ShmDataLoader(0, factory, prefetches, multiprocessing_context=FORK, **options)


def of_sizes(sizes):
    for i, size in enumerate(sizes):
        yield i, torch.full((size,), i, dtype=torch.uint8)


def test_zero_makes_each_microbatch_only_when_asked_for():
    ledger = Ledger()
    loader = new_loader(ledger, 0)
    for i in range(40):
        assert ledger.ask(loader)[0] == i
        ledger.await_made(1)
    assert ledger.num_made.value == 40
    assert ledger.most_ahead.value == 0


def test_zero_makes_nothing_while_the_trainer_works():
    ledger = Ledger()
    loader = new_loader(ledger, 0)
    ledger.ask(loader)
    assert ledger.await_idle() == 1


@pytest.mark.parametrize("prefetches", [1, 3, 10])
def test_that_many_are_made_ahead_and_no_more(prefetches):
    ledger = Ledger()
    loader = new_loader(ledger, prefetches)
    for _ in range(20):
        ledger.ask(loader)
        ledger.await_made(1)
    ledger.await_made(prefetches)  # it does run that far ahead,
    assert ledger.await_idle() == 20 + prefetches  # and stops there
    assert ledger.most_ahead.value <= prefetches


def test_asking_for_the_length_alone_makes_no_more_than_the_window():
    ledger = Ledger()
    loader = new_loader(ledger, 2)
    with pytest.raises(TypeError):
        len(loader)
    assert ledger.await_idle() <= 2


def test_minus_one_is_bounded_by_the_memory_budget():
    ledger = Ledger()
    loader = new_loader(ledger, -1, nbytes=MIB, memory_budget_nbytes=8 * MIB)
    ledger.ask(loader)
    num_ahead = ledger.await_idle() - 1
    # A little of the budget goes to frame headers; one more is made but not yet published.
    assert 4 <= num_ahead <= 9


def test_minus_one_runs_on_when_the_trainer_does():
    ledger = Ledger()
    loader = new_loader(ledger, -1, count=100, nbytes=MIB, memory_budget_nbytes=4 * MIB)
    assert [int(m[0]) for m in loader] == list(range(100))


def test_minus_one_with_small_microbatches_makes_the_whole_epoch():
    ledger = Ledger()
    loader = new_loader(ledger, -1, count=400)
    ledger.ask(loader)
    ledger.await_made(400)
    assert ledger.num_made.value == 400


def test_tensors_the_trainer_keeps_do_not_use_up_the_budget():
    loader = new_loader(Ledger(), 2, count=8, nbytes=MIB, memory_budget_nbytes=2 * MIB)
    kept = list(loader)
    assert [int(m[0]) for m in kept] == list(range(8))


@pytest.mark.parametrize("prefetches", [0, 3, -1])
def test_microbatches_of_very_different_sizes_in_one_run(prefetches):
    loader = ShmDataLoader(0, functools.partial(of_sizes, SIZES), prefetches)
    seen = []
    for i, tensor in loader:
        assert (tensor == i).all()
        seen.append(tensor.numel())
        del tensor
    assert seen == SIZES


def test_sizes_that_grow_and_shrink_again_and_again():
    sizes = [abs(i % 40 - 20) * 97_003 for i in range(100)]
    loader = ShmDataLoader(0, functools.partial(of_sizes, sizes), 5, memory_budget_nbytes=16 * MIB)
    for i, tensor in loader:
        assert tensor.numel() == sizes[i]
        assert (tensor == i).all()


def test_a_microbatch_of_one_gigabyte():
    if _core.memory_limit()[0] < 6 * GB:
        pytest.skip("needs 6 GB of memory")
    loader = ShmDataLoader(
        0, functools.partial(of_sizes, [3, GB, 5]), 0, memory_budget_nbytes=2 * GB
    )
    assert [tensor.numel() for _, tensor in loader] == [3, GB, 5]


def test_the_producer_is_idle_once_the_window_is_full():
    ledger = Ledger()
    loader = new_loader(ledger, 2)
    ledger.ask(loader)
    assert ledger.await_idle() == 3
    for i in range(1, 40):
        assert ledger.ask(loader)[0] == i
