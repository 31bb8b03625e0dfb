"""Loaders in a trainer that forks, and what the children do."""

from __future__ import annotations

import functools
import os
import signal
import time
import traceback
from collections.abc import Callable

import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data import ShmDataLoader

NUMEL = 1000
COUNT = 120  # microbatches: each of the few slots is written a dozen times
HELD = 4
_CHILD_S = 20  # a child that hangs is ended by SIGALRM


class Numbered(Dataset):
    """Microbatches that hold their own number everywhere."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.pause_s)
        return torch.full((NUMEL,), index)


def new_loader(pause_s: float = 0.0) -> ShmDataLoader:
    factory = functools.partial(DataLoader, Numbered(pause_s), batch_size=None)
    return ShmDataLoader(0, factory, 2, multiprocessing_context="fork")


def are_right(held: list[torch.Tensor]) -> bool:
    return all(bool((tensor == number).all()) for number, tensor in enumerate(held))


def num_leases(loader: ShmDataLoader) -> int:
    return loader._feed._feeds[0]._consumer.outstanding_leases


def fork(body: Callable[[], object]) -> int:
    """Run ``body`` in a forked child, which then leaves at once; the pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.alarm(_CHILD_S)
        body()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def assert_unharmed(loader: ShmDataLoader, held: list[torch.Tensor]) -> None:
    """Its leases are what it holds; what it holds stays right while every slot is used again."""
    assert num_leases(loader) == len(held)
    rest = [int(microbatch.unique()) for microbatch in iter(lambda: next(loader, None), None)]
    assert rest == list(range(len(held), COUNT))
    assert loader.stats().num_copies == 0, "copies would not show a slot that was freed too early"
    assert are_right(held)
    held.clear()
    assert num_leases(loader) == 0
