"""However the trainer ends while copies are in flight: right exit code, no hang, nothing left."""

from __future__ import annotations

import os
import signal

import pytest

PREAMBLE = """
import os
import signal
import sys
import psutil
import torch
from fkat.data import ShmDataLoader
from fkat.data.errors import ProducerDiedError

def endless():
    number = 0
    while True:
        yield {"number": number, "x": torch.full((1 << 20,), number)}
        number += 1

def busy():
    torch.cuda._sleep(5_000_000)  # some milliseconds: a thousand of them may be queued

loader = ShmDataLoader(0, endless, device=torch.device("cuda"), max_restarts=0)
for _ in range(3):
    microbatch = next(loader)
busy()
next(loader)  # its copy, and those of the next ones, are behind nothing: they run
"""


@pytest.fixture
def run(start_trainer):
    def run_to_end(body):
        return start_trainer(PREAMBLE + body).finish()

    return run_to_end


def test_in_the_middle_of_an_epoch(run):
    assert run("") == (0, "", "")


def test_with_microbatches_alive(run):
    assert run("kept = [next(loader) for _ in range(5)]\n") == (0, "", "")


def test_by_sys_exit(run):
    assert run("sys.exit(7)\n") == (7, "", "")


def test_without_any_clean_up(run):
    assert run("os._exit(5)\n") == (5, "", "")


def test_by_an_exception(run):
    code, _, errors = run("raise ValueError('of the training loop')\n")
    assert code == 1
    assert errors.endswith("ValueError: of the training loop\n")
    assert errors.count("Traceback") == 1


def test_by_an_exception_while_the_loader_is_iterated(run):
    body = """
def train():
    for i, microbatch in enumerate(loader):
        busy()
        if i == 5:
            raise ValueError("of the training loop")
train()
"""
    code, _, errors = run(body)
    assert code == 1
    assert errors.count("Traceback") == 1


def test_after_teardown_with_copies_in_flight(run):
    assert run("busy()\nnext(loader)\nloader.teardown()\nprint('done')\n") == (0, "done\n", "")


def test_after_dropping_the_loader(run):
    assert run("busy()\nnext(loader)\ndel loader\nprint('done')\n") == (0, "done\n", "")


@pytest.mark.parametrize("to_group", [True, False], ids=["to-group", "to-trainer"])
def test_ctrl_c(start_trainer, to_group):
    body = """
print("training")
try:
    for microbatch in loader:
        busy()
        microbatch["x"].sum()
except KeyboardInterrupt:
    print("interrupted")
"""
    trainer = start_trainer(PREAMBLE + body)
    assert trainer.read_line() == "training"
    (os.killpg if to_group else os.kill)(trainer.pid, signal.SIGINT)
    assert trainer.finish() == (0, "interrupted\n", "")


def test_ctrl_c_and_going_on(start_trainer):
    body = """
print("training")
numbers = []
caught = False
while not caught or len(numbers) < 100:
    try:
        microbatch = next(loader)
        number = int(microbatch["number"])
        assert bool((microbatch["x"] == number).all())
        numbers.append(number)
    except KeyboardInterrupt:
        caught = True
gaps = sum(1 for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1)
print(gaps <= 1)  # at most the one that was interrupted between next() and the list
"""
    trainer = start_trainer(PREAMBLE + body)
    assert trainer.read_line() == "training"
    os.killpg(trainer.pid, signal.SIGINT)
    assert trainer.finish() == (0, "True\n", "")


def test_the_producer_is_killed(run):
    body = """
(producer,) = psutil.Process().children()
producer.kill()
numbers = []
try:
    for microbatch in iter(loader.__next__, None):
        assert bool((microbatch["x"] == microbatch["number"]).all())
        numbers.append(microbatch["number"])
except ProducerDiedError as error:
    print(error.exit_code == -signal.SIGKILL, numbers == list(range(4, 4 + len(numbers))))
"""
    assert run(body) == (0, "True True\n", "")


def test_a_new_epoch_after_the_producer_was_killed(run):
    body = """
psutil.Process().children()[0].kill()
try:
    while True:
        next(loader)
except ProducerDiedError:
    pass
iter(loader)
print([next(loader)["number"] for _ in range(5)])
"""
    assert run(body) == (0, "[0, 1, 2, 3, 4]\n", "")


def test_the_trainer_is_killed(start_trainer, wait_until, is_alive):
    trainer = start_trainer(PREAMBLE + "print('training')\nfor _ in loader:\n    busy()\n")
    assert trainer.read_line() == "training"
    descendants = trainer.descendants()
    assert descendants
    trainer.kill()
    wait_until(lambda: not any(map(is_alive, descendants)))
