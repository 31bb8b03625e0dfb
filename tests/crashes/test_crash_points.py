"""A process dies at each point of the protocol: nothing published is lost, nothing is left."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.alone import shm_files

ROOT = Path(__file__).parents[2]
POINTS = sorted(
    name
    for path in (ROOT / "csrc").rglob("*.cpp")
    for name in re.findall(r'FKAT_CRASH_POINT\("([^"]+)"\)', path.read_text())
)
OF_PRODUCER = [name for name in POINTS if name.startswith("producer.")]
OF_TRAINER = [name for name in POINTS if name.startswith("trainer.")]
METHODS = ["fork", "spawn", "forkserver"]

TRAINER = """
import sys
import torch
from torch.utils.data import DataLoader
from fkat.data import ShmDataLoader, ShardedDataLoader

def numbered():
    # Sizes that grow, so that slots do.
    data = [torch.full((1000 * (i + 1),), i) for i in range(24)]
    return DataLoader(data, batch_size=None, num_workers=int(sys.argv[2]), shuffle=True)

if __name__ == "__main__":
    import fkat.data
    assert fkat.data.__file__.startswith(sys.argv[3]), fkat.data.__file__
    method, workers = sys.argv[1], int(sys.argv[2])
    budget = max(workers, 1) << 18  # so much for each producer, so that it must give memory back
    loader = ShmDataLoader(
        5, numbered, 2, multiprocessing_context=method, memory_budget_nbytes=budget
    )
    for epoch in range(2):
        for microbatch in loader:
            (value,) = microbatch.unique().tolist()
            print(epoch, value, microbatch.numel(), flush=True)
    print("restarts", loader.stats().num_restarts, flush=True)
"""


@pytest.fixture
def run(start_trainer, crashing_package, monkeypatch, tmp_path):
    """Run the trainer with a crash at a point, on its n-th visit; returns how it went."""
    once = tmp_path / "crashed"

    def go(point, visit, method, workers=0):
        monkeypatch.setenv("PYTHONPATH", str(crashing_package))
        monkeypatch.setenv("FKAT_CRASH_AT", f"{point}:{visit}")
        monkeypatch.setenv("FKAT_CRASH_ONCE", str(once))
        trainer = start_trainer(TRAINER, method, str(workers), str(crashing_package))
        exit_code, output, errors = trainer.finish()
        return trainer, exit_code, output.splitlines(), errors, once.exists()

    return go


@pytest.fixture(scope="session")
def expected():
    """What a run without a crash prints, by number of workers."""
    return {}


def uncrashed(run, expected, workers):
    if workers not in expected:
        _, exit_code, lines, errors, has_crashed = run("none", 0, "fork", workers)
        assert (exit_code, has_crashed) == (0, False), errors
        assert lines[-1] == "restarts 0"
        assert len(lines) == 2 * 24 + 1
        expected[workers] = lines[:-1]
    return expected[workers]


def test_there_are_points_on_both_sides():
    assert len(OF_PRODUCER) >= 8
    assert len(OF_TRAINER) >= 5
    assert sorted(OF_PRODUCER + OF_TRAINER) == POINTS, "a point's name begins with its process"
    assert len(set(POINTS)) == len(POINTS)


@pytest.mark.parametrize("point", OF_PRODUCER)
def test_a_producer_dies(run, expected, point):
    number = OF_PRODUCER.index(point)
    wanted = uncrashed(run, expected, 0)
    _, exit_code, lines, errors, has_crashed = run(point, number % 2, METHODS[number % 3])
    assert has_crashed, f"{point} was never reached"
    assert (exit_code, lines[:-1]) == (0, wanted), errors
    assert lines[-1] == "restarts 1"


@pytest.mark.parametrize("method", METHODS)
def test_a_producer_with_workers_dies(run, expected, method):
    wanted = uncrashed(run, expected, 2)
    point = next(name for name in OF_PRODUCER if "append" in name)
    _, exit_code, lines, errors, has_crashed = run(point, 7, method, workers=2)
    assert (exit_code, has_crashed, lines[:-1]) == (0, True, wanted), errors


@pytest.mark.parametrize("point", OF_TRAINER)
def test_a_trainer_dies(run, expected, wait_until, point):
    files = shm_files()
    number = OF_TRAINER.index(point)
    wanted = uncrashed(run, expected, 0)
    trainer, exit_code, lines, errors, has_crashed = run(point, number % 2, METHODS[number % 3])
    assert has_crashed, f"{point} was never reached"
    assert exit_code == -signal.SIGKILL, errors
    assert lines == wanted[: len(lines)]
    wait_until(lambda: not processes_of_session(trainer.pid))
    wait_until(lambda: not shm_files() - files)


def processes_of_session(leader):
    """Whatever still runs of a trainer's session, which its producers share."""
    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return [p for p in found if p.info["status"] != psutil.STATUS_ZOMBIE]
