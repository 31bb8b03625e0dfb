"""Few descriptors, little address space, no network, little memory: it works or says why not."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

METHODS = ["fork", "spawn", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_workers", ["0", "2"])
@pytest.mark.parametrize("kind", ["shm", "sharded"])
def test_few_descriptors_are_enough(train, kind, num_workers, method):
    assert train(kind, method, num_workers, "RLIMIT_NOFILE=64") == (0, "True\n", "")


@pytest.mark.parametrize("kind", ["shm", "sharded"])
def test_too_few_descriptors_are_an_error(train, kind):
    code, output, errors = train(kind, "fork", "0", "RLIMIT_NOFILE=8")
    assert (code, errors) == (0, "")
    assert output.startswith("OSError [Errno 24] ")
    assert "this process may have 8 (RLIMIT_NOFILE, ulimit -n)" in output
    assert "num_shard_prefetches" in output


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (
            "RLIMIT_AS=8000000000",
            "mapping a segment of 16.0 GiB: this process may have 7.5 GiB (RLIMIT_AS, ulimit -v)",
        ),
        (
            "RLIMIT_FSIZE=1000000",
            "sizing a memfd of 16.0 GiB: this process may have 976.6 KiB (RLIMIT_FSIZE, ulimit -f)",
        ),
    ],
    ids=["address_space", "file_size"],
)
@pytest.mark.parametrize("kind", ["shm", "sharded"])
def test_too_little_address_space_is_an_error_at_the_start(train, kind, limit, words):
    code, output, errors = train(kind, "fork", "0", limit)
    assert (code, errors) == (0, "")
    assert output.startswith("OSError ")
    assert words in output
    assert "; lower max_microbatch_nbytes or num_microbatch_prefetches" in output


def test_too_few_processes_are_an_error(train):
    if os.getuid() != 0:
        pytest.skip("root alone can become a user who has no processes yet, and is exempt itself")
    code, output, errors = train("shm", "fork", "0", "RLIMIT_NPROC=1")
    assert (code, errors) == (0, "")
    assert output.startswith("BlockingIOError [Errno 11] ")
    assert "this user may have 1 processes and threads (RLIMIT_NPROC, ulimit -u)" in output
    assert "num_workers" in output


@pytest.mark.parametrize("method", METHODS)
def test_no_network_is_needed(train, without_network, method):
    assert train("shm", method, "0", prefix=without_network) == (0, "True\n", "")


def test_no_network_is_needed_for_workers_and_several_producers(train, without_network):
    assert train("sharded", "fork", "2", prefix=without_network) == (0, "True\n", "")


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A memory cgroup of 512 MiB below this process's own."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = {name: path.strip("/") for _, names, path in lines for name in names.split(",")}
    if "memory" in own:  # version 1
        parent, limit = Path("/sys/fs/cgroup/memory") / own["memory"], "memory.limit_in_bytes"
    else:
        parent, limit = Path("/sys/fs/cgroup") / own.get("", ""), "memory.max"
    group = parent / f"fkat_limits_{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
        (group / limit).write_text(str(512 << 20))
        (group / "cgroup.procs").write_text("")
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"cannot make a memory cgroup here: {error}")
    yield group
    group.rmdir()


TOO_LARGE = """
import sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text("0")  # this process
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from fkat.data import ShmDataLoader

class Items(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        nbytes = 700 << 20 if index == 1 else 1 << 20
        return torch.from_numpy(np.zeros(nbytes, np.uint8))  # no memory until it is written to

def items():
    return DataLoader(Items(), batch_size=None)

if __name__ == "__main__":
    options = {} if sys.argv[2] == "default" else {"memory_budget_nbytes": 1 << 40}
    loader = ShmDataLoader(0, items, 1, **options)
    for _ in range(2):
        print(len(next(iter(loader))) >> 20)
        try:
            next(loader)
        except Exception as error:
            print(type(error).__name__, str(error).splitlines()[0])
"""


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("unlimited", ["MemoryError", "no memory for a slot: needed ", "cgroup limit 512.0 MiB"]),
        ("default", ["ValueError", "needs 700.0 MiB", "raise memory_budget_nbytes"]),
    ],
)
def test_a_microbatch_larger_than_the_container_is_an_error_and_no_kill(
    start_trainer, small_cgroup, wait_until, budget, words
):
    outcome = start_trainer(TOO_LARGE, str(small_cgroup), budget).finish()
    wait_until(lambda: not (small_cgroup / "cgroup.procs").read_text())
    code, output, errors = outcome
    assert (code, errors) == (0, "")
    first, error, again, error_again = output.splitlines()
    assert (first, again) == ("1", "1")
    assert [word for word in words if word not in error] == []
    assert [word for word in words if word not in error_again] == []
