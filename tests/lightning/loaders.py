"""A loader that keeps the contract of ours, in plain Python: microbatches that name themselves."""

from __future__ import annotations

import random

import torch

from fkat.data import _state

_KEYS = {"epoch": int, "position": int}


class Numbers:
    """Epoch e is a permutation of ``100 e + 0..count``, another for each epoch and rank.

    It counts its passes itself, and says in ``seen`` what it was told.
    """

    def __init__(self, count=7, sized=True, rank=0):
        self.count = count
        self.rank = rank
        self.epoch = 0
        self.position = 0
        self.delivered = 0
        self.is_over = False
        self.seen = []
        if sized:
            self.__class__ = SizedNumbers

    def order(self):
        numbers = list(range(self.count))
        random.Random(1000 * self.rank + self.epoch).shuffle(numbers)
        return [10_000 * self.rank + 100 * self.epoch + number for number in numbers]

    def __iter__(self):
        self.leave_epoch()
        return self

    def leave_epoch(self):
        if self.delivered > 0 or self.is_over:
            self.begin(self.epoch + 1, 0)

    def prepare(self):
        pass

    def __next__(self):
        if self.position == self.count:
            self.is_over = True
            raise StopIteration
        number = self.order()[self.position]
        self.position += 1
        self.delivered += 1
        return torch.tensor([number])

    def begin(self, epoch, position):
        self.epoch, self.position = epoch, position
        self.delivered = 0
        self.is_over = False

    def snapshot(self, next_epoch=False):
        epoch, position = self.epoch, self.position
        if next_epoch or self.is_over or (hasattr(self, "__len__") and position == self.count):
            epoch, position = epoch + 1, 0
        return lambda: {**_state.header("Numbers"), "epoch": epoch, "position": position}

    def state_dict(self):
        return self.snapshot()()

    def load_state_dict(self, state, strict=True):
        if state:
            _state.check(state, "Numbers", _KEYS)
            self.begin(state["epoch"], state["position"])

    def set_device(self, device):
        self.seen.append(("set_device", str(device)))

    def setup(self, stage):
        self.seen.append(("setup", stage))

    def teardown(self, stage):
        self.seen.append(("teardown", stage))

    def on_exception(self, exception):
        self.seen.append(("on_exception", type(exception).__name__))


class SizedNumbers(Numbers):
    """The same with a length."""

    def __len__(self):
        return self.count
