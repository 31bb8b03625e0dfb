"""However a trainer ends, its exit code is its own, and the driver is left as it was found."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHODS = ["fork", "spawn", "forkserver"]

TRAINER = """
import os
import signal
import sys
import time

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests' own parent ignores
sys.path.insert(0, sys.argv[1])
import torch
from fkat.data import ShmDataLoader

def produce():
    assert not torch.cuda.is_initialized()
    for i in range(1_000_000):
        yield torch.full((40_000,), i, dtype=torch.int32)

def leave(how):
    if how == "raise":
        raise RuntimeError("the step failed")
    if how == "exit":
        sys.exit(7)
    if how == "wait":
        time.sleep(1_000_000)

if __name__ == "__main__":
    from fkat.data._device import cuda
    from tests.device.fake import FakeCuda, FakeMemory

    path, method, how = sys.argv[2:]
    os.environ["FKAT_DATA_CUDA_DRIVER"] = path
    fake = FakeCuda(path)
    fake.delay(2000, 9000)
    cuda.open_memory = lambda device: FakeMemory(fake)
    loader = ShmDataLoader(
        0, produce, 4, device="cuda", multiprocessing_context=method, memory_budget_nbytes=1 << 26
    )
    for _ in range(6):
        next(loader)
    assert fake.count("in_flight") > 0
    print("copying")
    leave(how)
"""


@pytest.fixture
def run(start_trainer, fake_driver, tmp_path, monkeypatch):
    """Start the trainer; returns it, and what reads the log of the driver."""
    log = tmp_path / "driver.log"
    monkeypatch.setenv("FAKE_CUDA_LOG", str(log))

    def start(method, how):
        trainer = start_trainer(TRAINER, str(ROOT), str(fake_driver), method, how)
        assert trainer.read_line() == "copying"
        return trainer, lambda: log.read_text().splitlines()

    return start


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("how", "code"), [("return", 0), ("raise", 1), ("exit", 7)])
def test_ending_while_copies_are_in_flight(run, method, how, code):
    trainer, log = run(method, how)
    exit_code, output, errors = trainer.finish()
    assert (exit_code, output) == (code, "")
    assert ("the step failed" in errors) == (how == "raise")
    assert how == "raise" or errors == ""
    assert_only_the_trainer_called(trainer, log())
    kinds = ("contexts", "events", "registrations", "copies_in_flight", "violations")
    assert log()[-1] == f"pid={trainer.pid} " + " ".join(f"{kind}=0" for kind in kinds)


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_while_copies_are_in_flight(run, method):
    trainer, log = run(method, "wait")
    os.kill(trainer.pid, signal.SIGINT)
    exit_code, _, errors = trainer.finish()
    assert exit_code == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert_only_the_trainer_called(trainer, log())


def assert_only_the_trainer_called(trainer, lines):
    """One process loaded the driver; no producer did."""
    assert {int(pid) for line in lines for pid in re.findall(r"pid=(\d+)", line)} == {trainer.pid}
