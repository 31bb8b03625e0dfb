"""However the interpreter ends, it ends: right exit code, nothing on stderr, no process left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

import psutil
import pytest
import torch

from fkat.data import ShmDataLoader

PREAMBLE = """
import sys
import threading
import time
import torch
from torch.utils.data import DataLoader, Dataset
from fkat.data import ShmDataLoader

class Items(Dataset):
    def __init__(self, stuck_at=-1):
        self.stuck_at = stuck_at

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        if index == self.stuck_at:
            time.sleep(1_000_000)
        return torch.full((1000,), index)

def endless():
    return DataLoader(Items(), batch_size=None)

def arrays():
    return DataLoader(Items(), batch_size=None, collate_fn=torch.Tensor.numpy)

def stuck():
    return DataLoader(Items(stuck_at=2), batch_size=None)

def with_workers():
    return DataLoader(Items(), batch_size=None, num_workers=2)
"""


def script(body: str) -> str:
    return PREAMBLE + body


@pytest.fixture
def run(start_trainer, wait_until, is_alive) -> Callable[[str], tuple[int, str, str]]:
    """Run a script to its end, and see that its descendants are gone with it."""

    def run_to_end(body: str) -> tuple[int, str, str]:
        trainer = start_trainer(script(body))
        outcome = trainer.finish()  # its pipes are closed only when no process holds them
        wait_until(lambda: not any(map(is_alive, _members(trainer.pid))))
        return outcome

    return run_to_end


def _members(session: int) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _session(process.pid) == session]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:  # gone
        return -1


def test_in_the_middle_of_an_epoch(run):
    body = """
loader = ShmDataLoader(0, endless)
for i, microbatch in enumerate(loader):
    if i == 3:
        break
"""
    assert run(body) == (0, "", "")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_in_the_middle_of_an_epoch_of_a_started_interpreter(run, method):
    body = f"""
if __name__ == "__main__":
    loader = ShmDataLoader(0, endless, multiprocessing_context={method!r})
    next(loader)
"""
    assert run(body) == (0, "", "")


def test_with_a_producer_that_waits_for_room(run):
    body = """
loader = ShmDataLoader(0, endless, num_microbatch_prefetches=1)
next(loader)
time.sleep(0.3)
"""
    assert run(body) == (0, "", "")


def test_with_a_producer_that_hangs_in_user_code(run):
    body = """
loader = ShmDataLoader(0, stuck)
next(loader)
"""
    assert run(body) == (0, "", "")


def test_with_workers_of_the_dataloader(run):
    body = """
loader = ShmDataLoader(0, with_workers)
next(loader)
"""
    assert run(body) == (0, "", "")


def test_at_the_end_of_an_epoch_with_tensors_alive(run):
    body = """
loader = ShmDataLoader(0, endless)
kept = [next(loader) for _ in range(5)]
"""
    assert run(body) == (0, "", "")


def test_by_sys_exit(run):
    body = """
loader = ShmDataLoader(0, endless)
for microbatch in loader:
    sys.exit(7)
"""
    assert run(body) == (7, "", "")


def test_by_an_exception(run):
    body = """
loader = ShmDataLoader(0, endless)
for microbatch in loader:
    raise ValueError("of the training loop")
"""
    code, _, errors = run(body)
    assert code == 1
    assert errors.startswith("Traceback")
    assert errors.endswith("ValueError: of the training loop\n")
    assert errors.count("Traceback") == 1


def test_in_a_function_that_never_finished(run):
    body = """
def train():
    loader = ShmDataLoader(0, endless)
    for microbatch in loader:
        yield microbatch

training = train()
next(training)
"""
    assert run(body) == (0, "", "")


def test_with_two_loaders(run):
    body = """
loaders = [ShmDataLoader(0, endless), ShmDataLoader(1, stuck)]
for loader in loaders:
    next(loader)
"""
    assert run(body) == (0, "", "")


def test_with_a_loader_in_a_thread_that_is_done(run):
    body = """
loaders = []
def train():
    loaders.append(ShmDataLoader(0, endless))
    next(loaders[0])

thread = threading.Thread(target=train)
thread.start()
thread.join()
"""
    assert run(body) == (0, "", "")


@pytest.mark.parametrize("factory", ["arrays", "stuck"])
def test_while_a_daemon_thread_iterates(run, factory):
    # Not a loop over tensors: a daemon thread that frees one while the interpreter finalizes aborts
    # the process, in torch's own code (it lets go of the GIL there), with a plain DataLoader too.
    body = f"""
begun = threading.Event()
def train():
    loader = ShmDataLoader(0, {factory})
    while True:
        for microbatch in loader:
            begun.set()

threading.Thread(target=train, daemon=True).start()
begun.wait()
time.sleep(0.1)
"""
    assert run(body) == (0, "", "")


def test_after_a_fork_of_the_trainer(run):
    body = """
import os
loader = ShmDataLoader(0, endless)
kept = next(loader)
pid = os.fork()
if pid == 0:
    del kept, loader
    os._exit(0)
os.waitpid(pid, 0)
print(int(kept.sum()), int(next(loader)[0]))
"""
    assert run(body) == (0, "0 1\n", "")


WAITING = """
print("waiting")
try:
    while True:
        next(loader)
except KeyboardInterrupt:
    print("interrupted")
"""


def to_group(pid: int) -> None:
    os.killpg(pid, signal.SIGINT)


def to_trainer(pid: int) -> None:
    os.kill(pid, signal.SIGINT)


each_target = pytest.mark.parametrize("interrupt", [to_group, to_trainer])


@each_target
@pytest.mark.parametrize("factory", ["endless", "stuck", "with_workers"])
def test_ctrl_c_during_next(start_trainer, interrupt, factory):
    # An endless epoch: the loop over it is in next() or between two.
    body = f"loader = ShmDataLoader(0, {factory})\nnext(loader)\n" + WAITING.replace(
        "        next(loader)", "        for _ in loader: pass"
    )
    trainer = start_trainer(script(body))
    assert trainer.read_line() == "waiting"
    time.sleep(0.2)  # now it is in there
    interrupt(trainer.pid)
    assert trainer.finish() == (0, "interrupted\n", "")


@each_target
def test_ctrl_c_that_nobody_catches(start_trainer, interrupt):
    trainer = start_trainer(
        script("loader = ShmDataLoader(0, stuck)\nprint('waiting')\nlist(loader)\n")
    )
    assert trainer.read_line() == "waiting"
    time.sleep(0.3)
    interrupt(trainer.pid)
    code, _, errors = trainer.finish()
    assert code == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.endswith("KeyboardInterrupt\n")


@each_target
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_ctrl_c_while_an_interpreter_for_the_producer_starts(start_trainer, interrupt, method):
    # In the producer multiprocessing imports the script anew. By default a newer forkserver has
    # done that once for all, and until then does not ignore SIGINT: that is not ours to promise.
    beginning = """
import multiprocessing
import sys
import time
if __name__ != "__main__":
    print("importing", flush=True)
    try:
        time.sleep(0.3)
    except KeyboardInterrupt:  # of which forkserver says nothing; torch, imported next, would abort
        print("it reached the producer", file=sys.stderr, flush=True)
else:
    multiprocessing.set_forkserver_preload([])
"""
    body = f"""
if __name__ == "__main__":
    loader = ShmDataLoader(0, stuck, multiprocessing_context={method!r})
    try:
        next(loader)
    except KeyboardInterrupt:
        print("interrupted")
"""
    trainer = start_trainer(beginning + script(body))
    assert trainer.read_line() == "importing"
    interrupt(trainer.pid)
    assert trainer.finish() == (0, "interrupted\n", "")


def test_after_ctrl_c_the_loader_goes_on(start_trainer):
    body = """
class Slow(Items):
    def __getitem__(self, index):
        time.sleep(0.3)
        return super().__getitem__(index)

def slow():
    return DataLoader(Slow(), batch_size=None)

loader = ShmDataLoader(0, slow, num_microbatch_prefetches=1)
seen = [int(next(loader)[0])]
print("waiting")
while len(seen) < 5:
    try:
        seen.append(int(next(loader)[0]))
    except KeyboardInterrupt:
        print("interrupted")
print(seen)
"""
    trainer = start_trainer(script(body))
    assert trainer.read_line() == "waiting"
    time.sleep(0.1)
    to_group(trainer.pid)
    assert trainer.finish() == (0, "interrupted\n[0, 1, 2, 3, 4]\n", "")


@pytest.mark.parametrize("multiprocessing", [True, False])
def test_no_signal_handler_is_installed(multiprocessing):
    numbers = sorted(signal.valid_signals())
    before = [signal.getsignal(number) for number in numbers]
    loader = ShmDataLoader(0, partial(_three, 3), multiprocessing=multiprocessing)
    assert len(list(loader)) == 3
    assert [signal.getsignal(number) for number in numbers] == before
    loader.teardown()
    assert [signal.getsignal(number) for number in numbers] == before


def _three(size: int) -> list[torch.Tensor]:
    return [torch.full((2,), index) for index in range(size)]
