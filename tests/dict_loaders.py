"""Loaders to mix, which say what they were told."""

from __future__ import annotations

import functools
import os

import pytest

from fkat.data import ShmDataLoader
from fkat.data.errors import StalledError

BOTH = pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])


class Dicts:
    """An iterable that says of each microbatch which epoch and process it is of."""

    def __init__(self, count):
        self.count = count
        self.epoch = None
        self.heard = []

    def __iter__(self):
        for position in range(self.count):
            yield {"place": (self.epoch, position), "pid": os.getpid()}

    def set_epoch(self, epoch):
        self.epoch = epoch

    def set_device(self, device):
        self.heard.append(("set_device", device))

    def teardown(self, *args):
        self.heard.append(("teardown", *args))

    def on_exception(self, exception):
        self.heard.append(("on_exception", exception))


class Fails:
    """Raises in its second microbatch, so many times."""

    def __init__(self, error, times=1):
        self.error = error
        self.times = times

    def __iter__(self):
        yield {"x": 0}
        if self.times > 0:
            self.times -= 1
            raise self.error
        yield {"x": 1}


class Stalls:
    """Its own iterator; every other ``next()`` has to be asked again."""

    def __init__(self):
        self.calls = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.calls += 1
        if self.calls % 2:
            raise StalledError("nothing yet")
        if self.calls > 6:
            raise StopIteration
        return {"x": self.calls // 2}


def rows(count):
    return [{"x": i} for i in range(count)]


def shm(count, multiprocessing, **options):
    factory = functools.partial(Dicts, count)
    return ShmDataLoader(0, factory, multiprocessing=multiprocessing, **options)


def seen(loader, field="x"):
    return [(batch["dataset"], batch[field]) for batch in loader]


def places(epoch, names):
    """What a pass over `Dicts` gives when these are the names."""
    counts = dict.fromkeys(names, -1)
    found = []
    for name in names:
        counts[name] += 1
        found.append((name, (epoch, counts[name])))
    return found
