"""Whose turn it is, among workers that are counted alone."""

from __future__ import annotations

import sys
from itertools import count

import pytest

from fkat.data._source.note import Dealing, Ends, Mark, WorkerPlace
from fkat.data._transport.turns import ByCount

MAP_STYLE = Dealing(2, in_order=False)
STREAM = Dealing(2, is_by_number=False)
BEGINNING = (WorkerPlace(0), WorkerPlace(0))


def nth(dealing, worker, number, ends=Ends.NOTHING):
    """The mark of a worker's own microbatch ``number``."""
    if not dealing.is_by_number:
        return Mark(ends, 0, number + 1)
    position = worker + 2 * number
    return Mark(ends, 0, position + 1, digest=100 + position, before=99 + position)


def marked(mark):
    return ("a microbatch", mark)


@pytest.mark.parametrize("dealing", [MAP_STYLE, STREAM], ids=["map-style", "iterable"])
def test_one_that_was_lost_on_the_way_is_an_error(dealing):
    turns = ByCount(BEGINNING, dealing, 0)
    turns.take(0, 0, marked(nth(dealing, 0, 0)))
    with pytest.raises(RuntimeError, match="not the one behind those that worker 0"):
        turns.take(0, 1, marked(nth(dealing, 0, 2)))


def test_indices_that_differ_are_seen_from_either_side():
    for first, second in ((0, 1), (1, 0)):
        turns = ByCount(BEGINNING, MAP_STYLE, 0)
        turns.take(first, 0, marked(nth(MAP_STYLE, first, 0)))
        other = nth(MAP_STYLE, second, 0)._replace(before=7, digest=8)
        with pytest.raises(RuntimeError, match="drew other indices"):
            turns.take(second, 1, marked(other))


def interrupted_at(line, call):
    """Whether it was: a signal handler that raises does so before a line."""
    lines = count()

    def trace(frame, event, _):
        is_inside = event == "line" and frame.f_code.co_filename.endswith("/turns.py")
        if is_inside and next(lines) == line:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
        return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)


@pytest.mark.parametrize("dealing", [MAP_STYLE, STREAM], ids=["map-style", "iterable"])
@pytest.mark.parametrize("ends", [Ends.NOTHING, Ends.EPOCH])
def test_an_interrupt_finds_it_counted_or_not(dealing, ends):
    for line in count():
        turns = ByCount(BEGINNING, dealing, 0)
        mark = nth(dealing, 0, 0, ends)
        was_interrupted = interrupted_at(line, lambda t=turns, m=mark: t.take(0, 0, marked(m)))
        places, queue = turns._at
        if places[0].num_delivered == 0:
            assert (places, queue) == (BEGINNING, [0, 1])
        else:
            assert places == (WorkerPlace(1, ends is Ends.EPOCH, mark.digest), WorkerPlace(0))
            assert queue == ([1] if ends is Ends.EPOCH else [1, 0])
        if not was_interrupted:
            break
    assert line > 5
