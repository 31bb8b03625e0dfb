"""What keeps a GPU busy, and microbatches that a kernel can tell apart by itself."""

from __future__ import annotations

import torch

from fkat.data import ShmDataLoader

A_MOMENT = 2_000_000  # clock ticks: about a millisecond


class Busy:
    """Queues matrix products on the current stream: a training step's worth, without its data."""

    def __init__(self, device, size=2048):
        self._left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
        self._out = torch.empty_like(self._left)

    def __call__(self, count=4):
        for _ in range(count):
            torch.mm(self._left, self._left, out=self._out)


def ramp(number, count, device="cpu"):
    """``count`` integers that follow from ``number``, which may be a tensor on the device."""
    return (torch.arange(count, device=device) * 31 + number) % 65521


class Ramps:
    """An iterable of equally shaped microbatches, each with its number; can be pickled."""

    def __init__(self, count, size=1 << 17, first=0):
        self.count = count
        self.size = size
        self.first = first

    def __call__(self):
        return self

    def __len__(self):
        return self.count

    def __iter__(self):
        for number in range(self.first, self.first + self.count):
            yield {"number": torch.tensor(number), "x": ramp(number, self.size)}


def num_wrong(microbatch):
    """How many elements of a microbatch of `Ramps` are wrong: a tensor, behind what is queued."""
    x = microbatch["x"]
    return x.ne(ramp(microbatch["number"], x.numel(), x.device)).sum()


def new_loader(factory, device, prefetches=4, **options):
    return ShmDataLoader(0, factory, prefetches, device=device, **options)
