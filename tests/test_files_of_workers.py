"""DataLoader workers that are killed while they share a tensor leave no file in /dev/shm."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from fkat.data import ShmDataLoader
from fkat.data._transport import process_group
from fkat.data.errors import ProducerDiedError
from tests.sources import IteratedAsItIs

SHM = Path("/dev/shm")


class MakesFile(IterableDataset):
    """Does what torch does to share a tensor, and hangs before it would remove the file."""

    def __init__(self, is_mapped: bool) -> None:
        self.is_mapped = is_mapped

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield torch.zeros(2)
        path = SHM / f"torch_{os.getpid()}_1_0"
        with path.open("wb+") as file:
            file.truncate(4096)
            if self.is_mapped:
                kept = mmap.mmap(file.fileno(), 4096)
                file.close()
            time.sleep(1_000_000)
            del kept


def in_worker(is_mapped: bool) -> DataLoader:
    return IteratedAsItIs(
        MakesFile(is_mapped), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )


def only_child(process: psutil.Process) -> psutil.Process:
    (child,) = [p for p in process.children() if "resource_tracker" not in " ".join(p.cmdline())]
    return child


@pytest.fixture
def start(wait_until):
    """A loader whose worker has made its file; with the producer and the file."""

    def start(is_mapped: bool = False, method: str = "fork"):
        loader = ShmDataLoader(
            0,
            partial(in_worker, is_mapped),
            multiprocessing_context=method,
            max_restarts=0,
        )
        next(loader)
        producer = psutil.Process(loader._feed.pids[0])
        path = SHM / f"torch_{only_child(producer).pid}_1_0"
        wait_until(path.exists)
        return loader, producer, path

    return start


@pytest.mark.parametrize("is_mapped", [False, True])
def test_after_teardown(start, is_mapped):
    loader, _, path = start(is_mapped)
    loader.teardown()
    assert not path.exists()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_after_the_death_of_the_producer(start, method):
    loader, producer, path = start(method=method)
    producer.send_signal(signal.SIGKILL)
    with pytest.raises(ProducerDiedError):
        next(loader)
    assert not path.exists()


def test_the_files_of_others_stay(start):
    # The same number, in a container that shares /dev/shm and has process numbers of its own.
    loader, _, path = start()
    other = path.with_name(path.name.replace("_1_0", "_2_0"))
    other.touch()
    try:
        loader.teardown()
        assert (path.exists(), other.exists()) == (False, True)
    finally:
        other.unlink()


MAPS_FILE = """
import mmap, sys, time
with open(sys.argv[1].encode("latin-1"), "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
print("mapped", flush=True)
time.sleep(1_000_000)
"""


def test_a_process_that_maps_a_file_with_a_strange_name_is_killed(tmp_path):
    path = tmp_path / os.fsdecode(b"donn\xe9es")
    path.write_bytes(bytes(4096))
    command = [sys.executable, "-c", MAPS_FILE, os.fsencode(path).decode("latin-1")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"mapped\n"
        process_group.kill(process.pid)
        assert process.wait() == -signal.SIGKILL
