"""Who can reach a ring: whom it was handed to, and nobody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fkat.data import ShmDataLoader
from tests.tampered import items

NOBODY = 65534


def rings_of(pid: int) -> list[str]:
    """The numbers of the descriptors through which a process has a ring."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return [fd.name for fd in links if os.path.lexists(fd) and "memfd:fkat" in str(fd.readlink())]


def mapping_of(pid: int) -> str:
    """The address range at which it has mapped one, as /proc/pid/map_files names it."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    begin, end = next(line for line in lines if "memfd:fkat" in line).split()[0].split("-")
    return f"{int(begin, 16):x}-{int(end, 16):x}"


# Runs as root, becomes somebody else, and tries every door: prints those that opened.
INTRUDER = """
import ctypes, json, os, sys
uid, pid, fd, mapping = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
libc = ctypes.CDLL(None, use_errno=True)
if uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def read_memory():
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(int(mapping.split("-")[0], 16))
        memory.read(8)

SEIZE = 0x4206  # PTRACE_SEIZE, which does not stop its target
PTRACE, PIDFD_GETFD = {"x86_64": (101, 438), "aarch64": (117, 438)}[os.uname().machine]
doors = {
    "list its descriptors": lambda: os.listdir(f"/proc/{pid}/fd"),
    "read by descriptor": lambda: os.open(f"/proc/{pid}/fd/{fd}", os.O_RDONLY),
    "write by descriptor": lambda: os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR),
    "read by mapping": lambda: os.open(f"/proc/{pid}/map_files/{mapping}", os.O_RDONLY),
    "read its memory": read_memory,
    "copy the descriptor": lambda: call(PIDFD_GETFD, os.pidfd_open(pid), int(fd), 0),
    "trace it": lambda: call(PTRACE, SEIZE, pid, 0, 0),
}
opened = {}
for name, door in doors.items():
    try:
        door()
        opened[name] = "open"
    except PermissionError:
        opened[name] = "closed"
print(json.dumps(opened))
"""


@pytest.fixture
def doors_for() -> Callable[[int, int], dict[str, str]]:
    """What a user can do to a process that has a ring: ``doors_for(uid, pid)``."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")

    def try_doors(uid: int, pid: int) -> dict[str, str]:
        arguments = [str(uid), str(pid), rings_of(pid)[0], mapping_of(pid)]
        run = subprocess.run(
            [sys.executable, "-c", INTRUDER, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        opened: dict[str, str] = json.loads(run.stdout)
        return opened

    return try_doors


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_another_user_cannot_open_the_ring(doors_for, method):
    loader = ShmDataLoader(0, items, 2, multiprocessing_context=method)
    next(loader)
    producers = [c.pid for c in psutil.Process().children(recursive=True) if rings_of(c.pid)]
    assert producers
    for pid in (os.getpid(), *producers):
        opened = doors_for(NOBODY, pid)
        assert opened == dict.fromkeys(opened, "closed")
    assert sum(len(microbatch) for microbatch in loader) == 12


def test_the_test_of_the_other_user_would_notice_an_open_door(doors_for):
    loader = ShmDataLoader(0, items, 2)
    next(loader)
    opened = doors_for(0, os.getpid())
    assert opened["read by descriptor"] == opened["write by descriptor"] == "open"


@pytest.mark.alone  # whose a file in /dev/shm is cannot be told
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_ring_has_no_name_in_any_file_system(method, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    files, rings = set(Path("/dev/shm").iterdir()), rings_of(os.getpid())
    loader = ShmDataLoader(0, items, 2, multiprocessing_context=method)
    next(loader)
    (ring,) = set(rings_of(os.getpid())) - set(rings)
    assert str(Path(f"/proc/self/fd/{ring}").readlink()) == "/memfd:fkat.data ring (deleted)"
    assert set(Path("/dev/shm").iterdir()) - files == set()
    # A new interpreter writes what it compiles, and multiprocessing's folders are closed to others.
    assert [path for path in tmp_path.iterdir() if path.stat().st_mode & 0o077] == []
