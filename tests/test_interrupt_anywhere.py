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

from fkat.data import ShmDataLoader

LENGTH = 100_000
MOST_PLACES = 500  # of one next(): there are fewer than 100


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


def numbers():
    return map(torch.tensor, range(LENGTH))


def loader_of(num_workers):
    return DataLoader(range(LENGTH), batch_size=None, num_workers=num_workers)


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
    "factory",
    [numbers, partial(loader_of, 1), partial(loader_of, 2)],
    ids=["iterable", "one worker", "two workers"],
)
def test_nothing_is_lost_or_repeated(factory):
    loader = ShmDataLoader(0, factory, 2, multiprocessing_context="fork")
    expected = 100  # the place is worked out at powers of two, of which some come
    for _ in range(expected):
        next(loader)
    num_interrupted = 0
    for place in range(MOST_PLACES):
        try:
            got = int(next_interrupted_at(loader, place))
            assert got == expected, place
            expected += 1
        except Interrupted:
            num_interrupted += 1
        got = int(next(loader))
        assert got == expected, place
        expected += 1
        if num_interrupted <= place - 3:
            break
    assert 20 < num_interrupted < MOST_PLACES - 3
    assert loader.state_dict()["microbatch"] == expected
    loader.teardown()
