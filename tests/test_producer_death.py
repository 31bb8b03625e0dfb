"""The producer is killed, stopped or stuck: what it had published comes first, then an error."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fkat.data import ShmDataLoader
from fkat.data.errors import ProducerDiedError, StalledError
from tests.sources import IteratedAsItIs

SIZE, STUCK_AT = 8, 5
FATAL = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT)
each_fatal_signal = pytest.mark.parametrize("number", FATAL, ids=lambda number: number.name)


class Stuck(Dataset):
    """Tensors made of their index; hangs at ``STUCK_AT`` until ``gone`` exists.

    A byte is added to ``log`` at the begin of each item.
    """

    def __init__(self, folder: Path) -> None:
        self.log, self.gone = folder / "log", folder / "gone"
        self.log.touch()

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> torch.Tensor:
        faulthandler.disable()  # pytest's, inherited by fork: a killed producer need not print
        with self.log.open("ab") as log:
            log.write(b".")
        while index == STUCK_AT and not self.gone.exists():
            time.sleep(0.01)
        return torch.full((1000,), index)


def unbatched(dataset: Dataset) -> DataLoader:
    return DataLoader(dataset, batch_size=None)


def new_loader(*arguments: Any, **options: Any) -> ShmDataLoader:
    """One whose producer's death is an error; of what follows otherwise see test_restart.py."""
    return ShmDataLoader(*arguments, max_restarts=0, **options)


def producer_pid() -> int:
    (pid,) = [p.pid for p in multiprocessing.active_children() if p.name == "fkat.data producer"]
    return pid


def value(microbatch: torch.Tensor) -> int:
    (only,) = microbatch.unique().tolist()
    return only


def take_rest(loader: ShmDataLoader) -> None:
    while next(loader, None) is not None:
        pass


def values_until_death(loader: ShmDataLoader) -> tuple[list[int], ProducerDiedError]:
    values = []
    while True:
        try:
            values.append(value(next(loader)))
        except ProducerDiedError as error:
            return values, error.with_traceback(None)  # which would keep the loader


@pytest.fixture
def stuck(tmp_path: Path) -> Stuck:
    return Stuck(tmp_path)


@pytest.fixture
def wait_for_stuck(stuck: Stuck, wait_until: Callable[..., None]) -> Callable[[], None]:
    """Wait until the producer hangs, having published everything before that."""
    return lambda: wait_until(lambda: stuck.log.stat().st_size == STUCK_AT + 1)


@each_fatal_signal
def test_killed_while_the_trainer_computes(stuck, wait_for_stuck, number):
    loader = new_loader(0, partial(unbatched, stuck))
    values = [value(next(loader))]
    wait_for_stuck()
    os.kill(producer_pid(), number)
    time.sleep(0.05)
    more, error = values_until_death(loader)
    assert values + more == list(range(STUCK_AT))
    assert error.exit_code == -number


@each_fatal_signal
def test_killed_while_the_trainer_waits(stuck, number, start_killer):
    loader = new_loader(0, partial(unbatched, stuck))
    values = [value(next(loader)) for _ in range(STUCK_AT)]
    start_killer(producer_pid(), number)
    more, error = values_until_death(loader)
    assert (values, more) == (list(range(STUCK_AT)), [])
    assert error.exit_code == -number


@pytest.fixture
def start_killer():
    """A process that sends a signal after a moment."""
    killers = []

    def start(pid: int, number: int) -> None:
        context = multiprocessing.get_context("fork")
        killers.append(context.Process(target=_kill_soon, args=(pid, number)))
        killers[-1].start()

    yield start
    for killer in killers:
        killer.join()


def _kill_soon(pid: int, number: int) -> None:
    time.sleep(0.2)
    os.kill(pid, number)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_error_names_pid_and_signal(stuck, wait_for_stuck, method):
    loader = new_loader(0, partial(unbatched, stuck), multiprocessing_context=method)
    next(loader)
    wait_for_stuck()
    pid = producer_pid()
    os.kill(pid, signal.SIGKILL)
    _, error = values_until_death(loader)
    assert (error.pid, error.exit_code) == (pid, -signal.SIGKILL)
    assert str(pid) in str(error)
    assert "SIGKILL" in str(error)


def test_iterating_again_starts_a_new_producer(stuck, wait_for_stuck):
    loader = new_loader(0, partial(unbatched, stuck))
    next(loader)
    wait_for_stuck()
    first_pid = producer_pid()
    os.kill(first_pid, signal.SIGKILL)
    values_until_death(loader)
    stuck.gone.touch()
    assert [value(microbatch) for microbatch in loader] == list(range(SIZE))
    assert producer_pid() != first_pid


@pytest.mark.parametrize("num_taken", [0, 2])
def test_next_after_the_death_is_an_error_and_no_silent_end(stuck, wait_for_stuck, num_taken):
    loader = new_loader(0, partial(unbatched, stuck))
    len(loader)
    for _ in range(num_taken):
        next(loader)
    wait_for_stuck()
    os.kill(producer_pid(), signal.SIGKILL)
    values_until_death(loader)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="failed"):
            next(loader)


def test_len_of_a_dead_producer_is_an_error(start_killer, tmp_path):
    loader = new_loader(0, partial(_hang, tmp_path), timeout=0.1)
    with pytest.raises(StalledError):
        next(loader)
    start_killer(producer_pid(), signal.SIGKILL)
    error: Exception = StalledError()
    while isinstance(error, StalledError):
        with pytest.raises((ProducerDiedError, StalledError)) as caught:
            len(loader)
        error = caught.value.with_traceback(None)
    assert error.exit_code == -signal.SIGKILL


def _hang(folder: Path) -> list[int]:
    while folder.exists():
        time.sleep(0.01)
    return []


def test_tensors_delivered_before_stay_right(stuck, wait_for_stuck):
    loader = new_loader(0, partial(unbatched, stuck))
    kept = [next(loader), next(loader)]
    wait_for_stuck()
    os.kill(producer_pid(), signal.SIGKILL)
    values_until_death(loader)
    del loader
    assert [value(tensor) for tensor in kept] == [0, 1]


def test_sigterm_works_although_the_trainer_handles_it(stuck, wait_for_stuck):
    caught = []
    before = signal.signal(signal.SIGTERM, lambda *_: caught.append(os.getpid()))
    try:
        loader = new_loader(0, partial(unbatched, stuck), multiprocessing_context="fork")
        next(loader)
        wait_for_stuck()
        os.kill(producer_pid(), signal.SIGTERM)
        _, error = values_until_death(loader)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert error.exit_code == -signal.SIGTERM
    assert caught == []


def test_a_stopped_producer_is_not_taken_for_dead(stuck, wait_for_stuck):
    stuck.gone.touch()
    loader = new_loader(0, partial(unbatched, stuck), 0, timeout=0.3)
    assert value(next(loader)) == 0
    pid = producer_pid()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(StalledError, match=str(pid)):
        next(loader)
    os.kill(pid, signal.SIGCONT)
    assert [value(next(loader)) for _ in range(SIZE - 1)] == list(range(1, SIZE))
    with pytest.raises(StopIteration):
        next(loader)


def test_a_stopped_producer_can_be_torn_down(stuck):
    loader = new_loader(0, partial(unbatched, stuck))
    next(loader)
    os.kill(producer_pid(), signal.SIGSTOP)
    loader.teardown()
    assert multiprocessing.active_children() == []


def test_after_a_timeout_asking_again_loses_nothing(stuck):
    loader = new_loader(0, partial(unbatched, stuck), timeout=0.2)
    values = [value(next(loader)) for _ in range(STUCK_AT)]
    for _ in range(2):
        with pytest.raises(StalledError, match=r"timeout=0\.2"):
            next(loader)
    stuck.gone.touch()
    values += [value(next(loader)) for _ in range(SIZE - STUCK_AT)]
    assert values == list(range(SIZE))


class Stream(IterableDataset):
    """The items of another dataset, for workers of its own ``DataLoader``."""

    def __init__(self, items: Stuck) -> None:
        self.items = items

    def __iter__(self) -> Iterator[torch.Tensor]:
        return map(self.items.__getitem__, range(SIZE))


def test_the_workers_of_a_killed_producer_end(stuck, wait_until, is_alive):
    loader = new_loader(0, partial(IteratedAsItIs, Stream(stuck), batch_size=None, num_workers=2))
    next(loader)
    workers = psutil.Process(producer_pid()).children(recursive=True)
    assert len(workers) == 2
    os.kill(producer_pid(), signal.SIGKILL)
    values_until_death(loader)
    wait_until(lambda: not any(map(is_alive, workers)))


def test_a_killed_worker_is_an_error_of_the_dataloader(stuck):
    loader = new_loader(0, partial(IteratedAsItIs, Stream(stuck), batch_size=None, num_workers=1))
    next(loader)
    (worker,) = psutil.Process(producer_pid()).children(recursive=True)
    worker.kill()
    with pytest.raises((RuntimeError, OSError, EOFError)):  # torch's choice, by where it was
        take_rest(loader)


def sleep_for_good(began: Path) -> None:
    began.touch()
    time.sleep(1_000_000)


def with_a_child_of_its_own(folder: Path) -> DataLoader:
    child = multiprocessing.get_context("spawn").Process(
        target=sleep_for_good, args=(folder / "began",)
    )
    child.start()
    while not (folder / "began").exists():
        time.sleep(0.01)
    (folder / "pid").write_text(str(child.pid))
    return DataLoader(range(100_000), batch_size=1)  # more than fit into the ring


def test_what_user_code_has_spawned_ends_with_the_producer(tmp_path, wait_until, is_alive):
    factory = partial(with_a_child_of_its_own, tmp_path)
    loader = new_loader(0, factory, multiprocessing_context="fork")
    next(loader)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    os.kill(producer_pid(), signal.SIGKILL)
    values_until_death(loader)
    wait_until(lambda: not is_alive(child))
