"""Sleeping at several rings: any of them ends it, and so does any producer's death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fkat.data import _core

FOREVER_S = 600.0


class Pair:
    """Both ends of a ring in this process."""

    def __init__(self):
        ring = _core.Ring.create(2, 1 << 12)
        self.producer = _core.Producer(ring, 1 << 20)
        self.consumer = _core.Consumer(ring, 1, 1)
        self.consumer.begin_pass(0)
        self.pass_ = self.producer.await_pass(0)

    def publish(self):
        assert self.producer.publish(self.pass_, 0, b"it", [])


@pytest.fixture
def pairs():
    pairs = [Pair() for _ in range(3)]
    yield pairs
    pairs.clear()


@pytest.fixture
def stranger():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def wait(pairs, timeout_s=FOREVER_S):
    return _core.Consumer.wait_any([pair.consumer for pair in pairs], timeout_s)


def wait_again_and_again(pairs):
    while True:
        wait(pairs)


def later(action):
    """Do it when the wait has most likely begun; right whenever it is done."""
    thread = threading.Timer(0.05, action)
    thread.start()
    return thread


@pytest.mark.parametrize("number", range(3))
def test_what_is_there_already_ends_it(pairs, number):
    pairs[number].publish()
    assert wait(pairs) is None


@pytest.mark.parametrize("number", range(3))
def test_what_is_published_meanwhile_ends_it(pairs, number):
    thread = later(pairs[number].publish)
    while pairs[number].consumer.try_acquire() is None:
        assert wait(pairs) is None
    thread.join()


@pytest.mark.parametrize("number", range(3))
def test_a_death_ends_it_and_is_told(pairs, number, stranger):
    pidfd = os.pidfd_open(stranger.pid)
    pairs[number].consumer.watch(pidfd)
    os.close(pidfd)
    thread = later(stranger.kill)
    while (dead := wait(pairs)) is None:
        continue
    thread.join()
    assert dead == number
    pairs[number - 1].publish()
    assert wait(pairs) is None  # what there is to read comes first


def test_its_end_by_time(pairs):
    assert wait(pairs, 0.0) is None
    assert wait(pairs, 0.01) is None
    assert wait(pairs, -1.0) is None


def test_a_handler_that_raises_ends_it(pairs):
    def handler(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        # Again and again: the first could come before the sleep.
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        with pytest.raises(KeyboardInterrupt):
            wait_again_and_again(pairs)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_it_is_a_stall_of_one(pairs):
    begin = time.monotonic()
    wait(pairs, 0.05)
    waited_s = time.monotonic() - begin
    stalls = [pair.consumer.stats.stall_s for pair in pairs]
    assert 0.0 < sum(stalls) <= waited_s
