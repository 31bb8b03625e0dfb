"""The trainer is killed with SIGKILL: no process, no file and no memory stays behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.alone import SHM, shm_files

TRAINER = """
import ctypes
import sys
import time
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from fkat.data import ShmDataLoader

def produce(index):
    return torch.full((250_000,), index)

def sleep(index):
    if index == 4:
        time.sleep(1_000_000)
    return torch.full((1000,), index)

def hold_gil(index):
    if index == 2:
        ctypes.PyDLL(None).sleep(1_000_000)  # PyDLL keeps the GIL
    return torch.full((1000,), index)

class Items(Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 1_000_000

    def __getitem__(self, index):
        return self.make(index)

def in_producer():
    return DataLoader(Items(MAKE), batch_size=None)

def in_two_producers():
    return DataLoader(Items(MAKE), batch_size=None, num_workers=2)

class Stream(IterableDataset):
    def __iter__(self):
        return map(MAKE, range(1_000_000))

class IteratedAsItIs(DataLoader):  # by workers of its own, children of the producer
    def __iter__(self):
        return super().__iter__()

def in_workers():
    return IteratedAsItIs(Stream(), batch_size=None, num_workers=1)

MAKE = globals()[sys.argv[2]]

if __name__ == "__main__":
    method, budget = sys.argv[1], 1 << 28
    loader = ShmDataLoader(
        0, globals()[sys.argv[3]], 4, multiprocessing_context=method, memory_budget_nbytes=budget
    )
    next(loader), next(loader)
    print("ready")
    if sys.argv[4] == "consume":
        for _ in loader:
            pass
    time.sleep(1_000_000)
"""


@pytest.fixture
def assert_all_gone_after_kill(start_trainer, wait_until, is_alive) -> Callable[..., None]:
    def check(*arguments: str, num_processes: int = 1, num_rings: int = 1) -> None:
        files = shm_files()
        trainer = start_trainer(TRAINER, *arguments)
        assert trainer.read_line() == "ready"
        processes: list[psutil.Process] = []

        def are_listed() -> bool:  # one listing in some twenty misses one that is there
            processes[:] = trainer.descendants()
            return len(processes) >= num_processes

        wait_until(are_listed)
        rings = set().union(*map(rings_of, [psutil.Process(trainer.pid), *processes]))
        assert len(rings) == num_rings
        trainer.kill()
        wait_until(lambda: not any(map(is_alive, processes)))
        wait_until(lambda: not rings & rings_of_everybody())
        remove_half_made_tensors(processes)
        wait_until(lambda: not shm_files() - files)

    return check


def remove_half_made_tensors(processes: list[psutil.Process]) -> None:
    """What PyTorch leaves of a worker of a ``DataLoader`` that is killed between making a tensor's
    file and unlinking it; nobody can prevent that. One each at most.
    """
    for process in processes:
        half_made = list(SHM.glob(f"torch_{process.pid}_*"))
        assert len(half_made) <= 1
        for path in half_made:
            path.unlink()


def rings_of(process: psutil.Process) -> set[str]:
    """Inode numbers of the rings that a process has mapped: memory stays as long as one is."""
    try:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:  # gone, or not ours
        return set()
    return set(re.findall(r"(\d+) +/memfd:fkat", maps))


def rings_of_everybody() -> set[str]:
    return set().union(*map(rings_of, psutil.process_iter()))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("make", ["produce", "hold_gil"])
def test_under_every_start_method(assert_all_gone_after_kill, method, make):
    assert_all_gone_after_kill(method, make, "in_producer", "idle")


def test_while_the_producer_sleeps(assert_all_gone_after_kill):
    assert_all_gone_after_kill("fork", "sleep", "in_producer", "idle")


def test_while_both_work(assert_all_gone_after_kill):
    assert_all_gone_after_kill("fork", "produce", "in_producer", "consume")


@pytest.mark.parametrize("make", ["produce", "hold_gil"])
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_with_two_producers(assert_all_gone_after_kill, method, make):
    arguments = (method, make, "in_two_producers", "idle")
    assert_all_gone_after_kill(*arguments, num_processes=2, num_rings=2)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_with_workers_of_the_dataloader(assert_all_gone_after_kill, method):
    assert_all_gone_after_kill(method, "produce", "in_workers", "consume", num_processes=2)


def test_with_workers_that_hang(assert_all_gone_after_kill):
    assert_all_gone_after_kill("fork", "sleep", "in_workers", "idle", num_processes=2)


def test_while_the_producer_is_stopped(start_trainer, wait_until, is_alive):
    trainer = start_trainer(TRAINER, "fork", "produce", "in_producer", "idle")
    assert trainer.read_line() == "ready"
    (producer,) = trainer.descendants()
    producer.suspend()
    trainer.kill()
    # The kernel continues a stopped process group that has become an orphan.
    wait_until(lambda: not is_alive(producer))


def test_while_an_interpreter_for_the_producer_starts(start_trainer, wait_until, is_alive):
    source = TRAINER.replace("next(loader), next(loader)", "print('starting'); next(loader)")
    trainer = start_trainer(source, "spawn", "produce", "in_producer", "idle")
    assert trainer.read_line() == "starting"
    wait_until(trainer.descendants)
    processes = trainer.descendants()
    trainer.kill()
    wait_until(lambda: not any(map(is_alive, processes)))


@pytest.mark.alone  # whose the machine's shared memory is cannot be told
def test_its_memory_is_given_back(start_trainer, wait_until):
    before = shared_nbytes()
    source = TRAINER.replace("(250_000,)", "(16_000_000,)")  # 4 published, 122 MiB each
    source = source.replace("1 << 28", "1 << 30")
    trainer = start_trainer(source, "fork", "produce", "in_producer", "idle")
    assert trainer.read_line() == "ready"
    wait_until(lambda: shared_nbytes() - before > 300 << 20)
    trainer.kill()
    wait_until(lambda: shared_nbytes() - before < 150 << 20)


def shared_nbytes() -> int:
    return psutil.virtual_memory().shared
