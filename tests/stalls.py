"""Loaders whose data hangs, in ways that can be told apart from outside."""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data.errors import StalledError

SIZE, HANGS_AT = 5, 2


def sleep(gone: Path) -> None:
    while not gone.exists():
        time.sleep(0.01)


def compute(gone: Path) -> None:
    while not gone.exists():
        sum(range(10_000))


def hold_the_gil(gone: Path) -> None:
    while not gone.exists():
        ctypes.PyDLL(None).usleep(100_000)


def take_the_signal(gone: Path) -> None:
    signal.signal(signal.SIGURG, lambda *_: None)
    sleep(gone)


def time_out(gone: Path) -> None:
    raise TimeoutError("the object store does not answer")


class Hanging(Dataset):
    """Tensors made of their index; ``hang`` runs at ``HANGS_AT``, until ``gone`` exists."""

    def __init__(self, gone: Path, hang: Callable[[Path], None] = sleep) -> None:
        self.gone, self.hang = gone, hang

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == HANGS_AT:
            self.hang(self.gone)
        return torch.full((50_000,), index)


def unbatched(dataset: Dataset) -> DataLoader:
    return DataLoader(dataset, batch_size=None)


def hanging_factory(gone: Path) -> DataLoader:
    sleep(gone)
    return unbatched(Hanging(gone))


def values_of(loader) -> list[int]:
    """What is left of the epoch, however often it has to be asked."""
    values = []
    while True:
        try:
            values.append(int(next(loader)[0]))
        except StalledError:
            continue
        except StopIteration:
            return values


def stall_saying(words: str, ask: Callable[[], object], num_delivered: int = 0) -> str:
    """What is said when a producer has come as far as ``words``; what it delivers is counted."""
    delivered = 0
    while True:
        try:
            ask()
            delivered += 1
        except StalledError as error:
            if words in str(error):
                assert delivered == num_delivered
                return str(error)
