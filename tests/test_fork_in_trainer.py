"""A trainer that forks while it holds microbatches: nothing freed twice, no lease lost, no hang."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.forks import (
    COUNT,
    HELD,
    are_right,
    assert_unharmed,
    exit_code,
    fork,
    new_loader,
    num_leases,
)


def nothing(loader, held):
    pass


def read(loader, held):
    assert are_right(held)


def drop_tensors(loader, held):
    held.clear()
    gc.collect()


def drop_views(loader, held):
    views = [tensor.view(10, -1).t()[3].numpy() for tensor in held]
    held.clear()
    assert [int(view[0]) for view in views] == list(range(HELD))
    views.clear()


def tear_down(loader, held):
    loader.teardown()
    held.clear()
    gc.collect()


def retire(loader, held):
    """What the end of its producer does in the loader's own process."""
    loader._feed._feeds[0]._ring.retire()


def save_state(loader, held):
    assert loader.state_dict()["microbatch"] == HELD


def start_over(loader, held):
    """A state loaded in the child starts a producer of the child's own."""
    loader.load_state_dict(loader.state_dict())
    assert int(next(loader)[0]) == HELD
    loader.teardown()


def fork_again(loader, held):
    assert exit_code(fork(held.clear)) == 0


def run_finalizers(loader, held):
    """What multiprocessing does at the end of a process."""
    multiprocessing.util._run_finalizers(0)


def die(loader, held):
    os.kill(os.getpid(), signal.SIGKILL)


IN_CHILD = [
    *[nothing, read, drop_tensors, drop_views, tear_down, save_state, start_over, fork_again],
    *[run_finalizers, retire, die],
]


@pytest.mark.parametrize("in_child", IN_CHILD)
def test_whatever_a_forked_child_does_its_parent_is_unharmed(in_child):
    loader = new_loader()
    held = [next(loader) for _ in range(HELD)]
    code = exit_code(fork(lambda: in_child(loader, held)))
    assert code == (-signal.SIGKILL if in_child is die else 0)
    assert_unharmed(loader, held)


def test_a_child_that_drops_the_loader_and_everything_it_holds_frees_nothing():
    everything = [new_loader()]
    loader = everything[0]
    held = [next(loader) for _ in range(HELD)]
    everything.append(held)
    pid = os.fork()
    if pid == 0:
        del loader, held
        everything.clear()
        gc.collect()
        os._exit(0)
    assert exit_code(pid) == 0
    assert_unharmed(loader, held)


def test_many_children_that_live_and_die_while_the_ring_is_in_use():
    loader = new_loader()
    held = [next(loader) for _ in range(HELD)]
    pids = []
    for number in range(HELD, COUNT):
        microbatch = next(loader)
        assert int(microbatch.unique()) == number
        if number % 8 == 0:
            pids.append(fork(functools.partial(drop_tensors, loader, held)))
            pids.append(fork(functools.partial(read, loader, held)))
        del microbatch
    assert [exit_code(pid) for pid in pids] == [0] * len(pids)
    assert num_leases(loader) == HELD
    assert loader.stats().num_copies == 0
    assert are_right(held)


def test_a_child_reads_what_its_parent_holds_while_the_parent_goes_on():
    loader = new_loader()
    held = [next(loader) for _ in range(HELD)]
    until_told, tell = os.pipe()

    def watch() -> None:
        os.close(tell)
        os.set_blocking(until_told, False)
        while True:
            assert are_right(held)
            try:
                assert os.read(until_told, 1) == b""
            except BlockingIOError:
                continue
            return

    pid = fork(watch)
    os.close(until_told)
    rest = [int(microbatch.unique()) for microbatch in iter(lambda: next(loader, None), None)]
    os.close(tell)
    assert exit_code(pid) == 0
    assert rest == list(range(HELD, COUNT))


def test_a_child_keeps_its_tensors_after_its_parent_has_stopped_the_loader():
    # The memory is the child's too: it is not taken from under it. (What is in it is the parent's
    # to change, as long as the parent goes on.)
    loader = new_loader()
    held = [next(loader) for _ in range(HELD)]
    until_told, tell = os.pipe()

    def read_late() -> None:
        os.close(tell)
        os.read(until_told, 1)
        assert are_right(held)

    pid = fork(read_late)
    os.close(until_told)
    loader.teardown()
    del loader
    held.clear()
    gc.collect()
    os.close(tell)
    assert exit_code(pid) == 0


class Held(Dataset):
    """A user's dataset that has captured microbatches."""

    def __init__(self, held: list[torch.Tensor]) -> None:
        self.held = held

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.held[index % HELD][:3] + index


def use_a_dataloader(held):
    got = torch.cat(list(DataLoader(Held(held), num_workers=2, multiprocessing_context="fork")))
    assert got[:, 0].tolist() == [index % HELD + index for index in range(40)]


def use_a_process(held):
    process = multiprocessing.get_context("fork").Process(target=read, args=(None, held))
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()


OPEN_RINGS = """
import os
links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
print(sum("memfd:fkat" in os.readlink(link) for link in links if os.path.lexists(link)))
"""


def use_a_command(held):
    command = [sys.executable, "-c", OPEN_RINGS]  # which inherits whatever it can
    run = subprocess.run(command, close_fds=False, capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("0\n", "")


@pytest.mark.parametrize("use", [use_a_dataloader, use_a_process, use_a_command])
def test_other_processes_of_the_trainer_do_no_harm(use):
    loader = new_loader()
    held = [next(loader) for _ in range(HELD)]
    use(held)
    assert_unharmed(loader, held)


NORMAL_EXIT = """
import atexit, gc, os, signal, sys
import torch
from fkat.data import ShmDataLoader

def numbered():
    for number in range(100):
        yield torch.full((1000,), number)

if __name__ == "__main__":
    loader = ShmDataLoader(0, numbered, 2, multiprocessing_context=sys.argv[1])
    held = [next(loader) for _ in range(4)]
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        atexit.register(gc.collect)
        sys.exit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print([int(next(loader).unique()) for _ in range(96)] == list(range(4, 100)))
    print([int(tensor.unique()) for tensor in held])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_that_leaves_as_a_program_does_frees_nothing(start_trainer, method):
    code, output, _ = start_trainer(NORMAL_EXIT, method).finish()
    # Its stderr is not looked at: multiprocessing's own exit function complains there of any child
    # of its parent ("can only join a child process").
    assert (code, output.splitlines()) == (0, ["3", "True", "[0, 1, 2, 3]"])
