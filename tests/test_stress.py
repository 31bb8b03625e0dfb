"""Random kills, random early leaves, random holds: no microbatch is ever wrong, lost or repeated.

What `tests/cpp/stress_kill.cpp` does to the ring, through the whole loader.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data import ShmDataLoader
from fkat.data.errors import ProducerDiedError

SIZE = 60


class Payloads(Dataset):
    """Every word follows from (epoch, index), and so does the number of words."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"where": torch.tensor([self.epoch, index]), "words": words(self.epoch, index)}


def words(epoch: int, index: int) -> torch.Tensor:
    base = epoch * 1_000_003 + index * 7919
    return torch.arange(base, base + (base * 31) % 50_000)


def factory() -> DataLoader:
    return DataLoader(Payloads(), batch_size=None)


def check(microbatch: dict[str, torch.Tensor], epoch: int, index: int) -> None:
    assert microbatch["where"].tolist() == [epoch, index]
    assert torch.equal(microbatch["words"], words(epoch, index))


class Killer:
    """Kills the producer after a while, from a thread of the trainer."""

    def __init__(self, delay_s: float) -> None:
        self._thread = threading.Timer(delay_s, self._kill)
        self._thread.start()

    @staticmethod
    def _kill() -> None:
        for child in multiprocessing.active_children():
            if child.name == "fkat.data producer" and child.pid is not None:
                os.kill(child.pid, signal.SIGKILL)

    def join(self) -> None:
        self._thread.join()


@pytest.fixture
def killers() -> Iterator[list[Killer]]:
    started: list[Killer] = []
    yield started
    for killer in started:
        killer.join()


@pytest.mark.filterwarnings("ignore:more than 8 microbatches are kept alive")
@pytest.mark.parametrize("num_prefetches", [0, 1, 16, -1])
def test_random_kills_leaves_and_holds(num_prefetches, killers):
    chance = random.Random(num_prefetches)
    loader = ShmDataLoader(
        0, factory, num_prefetches, multiprocessing_context="fork", max_restarts=0
    )
    epoch, num_rounds = 0, 0
    exit_codes: list[int | None] = []
    held: list[tuple[dict[str, torch.Tensor], int, int]] = []
    while num_rounds < 15 or len(exit_codes) < 3:
        num_rounds += 1
        loader.set_epoch(epoch)
        killers.append(Killer(chance.uniform(0.0, 0.15)))
        leave_at = chance.choice([SIZE, SIZE, chance.randrange(1, SIZE)])
        index = 0
        try:
            for microbatch in loader:
                check(microbatch, epoch, index)
                if chance.random() < 0.2:
                    held.append((microbatch, epoch, index))
                if chance.random() < 0.1:
                    time.sleep(chance.uniform(0.0, 0.01))
                index += 1
                if index == leave_at:
                    break
            else:
                assert index == SIZE
        except ProducerDiedError as error:
            exit_codes.append(error.exit_code)
        killers[-1].join()
        for kept in held:
            check(*kept)
        del held[: chance.randrange(len(held) + 1)]
        epoch += 1
    assert set(exit_codes) == {-signal.SIGKILL}
