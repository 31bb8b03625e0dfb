"""An interrupt anywhere within ``next()``: what was read is delivered by the next one.

Python runs signal handlers where a function begins and behind each call of C code. So the test has
one raise at every such place in turn, by way of a profile function, which runs there, too.
"""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from fkat.data import DictDataLoader, ShmDataLoader
from fkat.data.samplers.strategies import Weighted

LENGTH = 10_000
MOST_PLACES = 500  # of one next(): there are fewer than 100


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


def numbers():
    return map(torch.tensor, range(LENGTH))


def loader_of(num_workers):
    return DataLoader(range(LENGTH), batch_size=None, num_workers=num_workers)


def named():
    return ({"x": number} for number in numbers())


def open_one(factory, multiprocessing):
    return ShmDataLoader(
        0, factory, 2, multiprocessing=multiprocessing, multiprocessing_context="fork"
    )


def open_mixture(multiprocessing):
    children = {name: open_one(named, multiprocessing) for name in "ab"}
    return DictDataLoader({**children, "c": list(named())}, Weighted({"a": 3, "b": 1, "c": 1}))


def next_interrupted_at(loader, place):
    """``next(loader)``, interrupted at that place; whether there is one."""
    left, here = place, sys._getframe()

    def profile(frame, event, argument):
        nonlocal left
        # Behind the last place the microbatch is the caller's.
        if event in ("call", "c_return") and frame is not here:
            if left == 0:
                sys.setprofile(None)
                raise Interrupted
            left -= 1

    sys.setprofile(profile)
    try:
        return next(loader)
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize(
    "open_loader",
    [
        partial(open_one, numbers),
        partial(open_one, partial(loader_of, 1)),
        partial(open_one, partial(loader_of, 2)),
        open_mixture,
    ],
    ids=["iterable", "one worker", "two workers", "mixture"],
)
def test_nothing_is_lost_or_repeated_and_the_state_is_that_of_what_was_delivered(open_loader):
    loader, undisturbed = open_loader(True), open_loader(False)
    for _ in range(100):  # the place is worked out at powers of two, of which some come
        assert next(loader) == next(undisturbed)
    num_interrupted = 0
    for place in range(MOST_PLACES):
        try:
            assert next_interrupted_at(loader, place) == next(undisturbed), place
        except Interrupted:
            num_interrupted += 1
        assert loader.state_dict() == undisturbed.state_dict(), place
        assert next(loader) == next(undisturbed), place
        if num_interrupted <= place - 3:
            break
    assert 20 < num_interrupted < MOST_PLACES - 3
    assert loader.state_dict() == undisturbed.state_dict()
    loader.teardown()
    undisturbed.teardown()
