"""Ctrl-C while a producer is started or stopped: it is not lost, and the interpreter ends."""

from __future__ import annotations

import psutil
import pytest

PREAMBLE = """
import os
import signal
import sys
import threading
import time
from multiprocessing import popen_fork, popen_forkserver, popen_spawn_posix
import psutil
from torch.utils.data import DataLoader
from fkat.data import ShmDataLoader

class Items:
    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index == 4:
            time.sleep(1_000_000)
        return index

def items():
    return DataLoader(Items(), batch_size=2)

def interrupt_soon():
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

def print_interrupted(function):
    try:
        function()
        print("not interrupted")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""

TEARDOWN = """
if __name__ == "__main__":
    loader = ShmDataLoader(0, items, multiprocessing_context="fork")
    next(loader), next(loader)
    time.sleep(0.2)
    print(loader._feed.pids[0])
    threading.Thread(target=interrupt_soon, daemon=True).start()
    print_interrupted(loader.teardown)
    loader.teardown()
"""

START = """
if __name__ == "__main__":
    method = sys.argv[1]
    modules = {"spawn": popen_spawn_posix, "forkserver": popen_forkserver, "fork": popen_fork}
    popen = modules[method].Popen
    launch = popen._launch

    def interrupted_launch(*arguments):
        launch(*arguments)
        signal.raise_signal(signal.SIGINT)

    popen._launch = interrupted_launch
    loader = ShmDataLoader(0, items, multiprocessing_context=method)
    print_interrupted(loader.__next__)
    popen._launch = launch
    print(next(loader).tolist(), next(loader).tolist())
    print(len([p for p in psutil.Process().children(recursive=True) if "memfd:fkat" in maps(p)]))
"""

MAPS = """
def maps(process):
    with open(f"/proc/{process.pid}/maps") as file:
        return file.read()
"""


def test_the_grace_of_a_teardown_may_be_interrupted(start_trainer, wait_until):
    trainer = start_trainer(PREAMBLE + TEARDOWN)
    producer = int(trainer.read_line())
    assert trainer.finish() == (0, "interrupted\n", "")
    wait_until(lambda: not psutil.pid_exists(producer))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_producer_whose_start_was_interrupted_is_the_loaders_still(start_trainer, method):
    trainer = start_trainer(PREAMBLE + MAPS + START, method)
    assert trainer.finish() == (0, "interrupted\n[0, 1] [2, 3]\n1\n", "")
