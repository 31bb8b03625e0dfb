"""Producers to kill, and what a loader delivers while that is done."""

from __future__ import annotations

import faulthandler
import os
import signal

import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from tests.sources import EPOCHS


def plain(microbatch):
    """Everything in a microbatch, to be compared."""
    return [v.tolist() if isinstance(v, torch.Tensor) else v for v in microbatch]


def kill_producers(before, number=signal.SIGKILL):
    for process in set(psutil.Process().children()) - before:
        if process.status() != psutil.STATUS_ZOMBIE:
            process.send_signal(number)


def delivered(loader, kill_at=(), number=signal.SIGKILL):
    """Two epochs and the state behind each microbatch; producers are killed before some."""
    before = set(psutil.Process().children())
    found = []
    for _ in range(EPOCHS):
        for microbatch in loader:
            found.append((plain(microbatch), loader.state_dict()))
            if len(found) in kill_at:
                kill_producers(before, number)
    loader.teardown()
    return found


class Fragile(Dataset):
    """Numbers; making one of them ends the process, each time until it has done so often enough."""

    def __init__(self, folder, fatal_index, num_deaths, die):
        self.log, self.fatal_index = folder / "deaths", fatal_index
        self.num_deaths, self.die = num_deaths, die
        self.log.touch()

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == self.fatal_index and self.log.stat().st_size < self.num_deaths:
            with self.log.open("ab") as log:
                log.write(b".")
            self.die()
        return torch.tensor([index])


def crash():
    faulthandler.disable()  # pytest's, inherited by fork
    os.kill(os.getpid(), signal.SIGSEGV)


def unbatched(dataset, num_workers=0):
    return DataLoader(dataset, batch_size=None, num_workers=num_workers)


def numbers(loader):
    return [int(microbatch) for microbatch in loader]
