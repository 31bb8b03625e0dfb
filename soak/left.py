"""What PyTorch and multiprocessing leave in /dev/shm of processes that were killed.

Both make a file, and unlink it a moment later: torch one for a tensor that a DataLoader's worker
hands over, multiprocessing one for a semaphore of a queue. Of a process that is killed between the
two the file stays. It is told apart by its name, which says whose it is; but for the first name of
a semaphore, which glibc makes up (`sem.qgjlyW`) and replaces in the next moment: one that stays is
nobody's.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

SHM = Path("/dev/shm")

_FOLDER = "FKAT_SOAK_WORKERS"  # an environment variable: it reaches processes of every start method
_TENSOR = re.compile(r"torch_(\d+)_")
_SEMAPHORES = f"soak{os.getpid()}"
_HALF_MADE_SEMAPHORE = re.compile(r"sem\.[A-Za-z0-9]{6}")
_MOMENT_S = 1.0


@contextmanager
def known_by_name() -> Iterator[None]:
    """See to it that such files of this process's descendants are known as such by their names."""
    # Where multiprocessing keeps the beginning of semaphores' names; child processes inherit it.
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before = config["semprefix"]
    config["semprefix"] = f"/{_SEMAPHORES}"
    try:
        with TemporaryDirectory(prefix="soak_workers") as folder:
            os.environ[_FOLDER] = folder
            yield
    finally:
        config["semprefix"] = before
        os.environ.pop(_FOLDER, None)


def note_worker() -> None:
    """This process hands tensors over by files of its own."""
    if folder := os.environ.get(_FOLDER):
        (Path(folder) / str(os.getpid())).touch()


def shm_files() -> frozenset[str]:
    """Names in /dev/shm, but for semaphores that others have given a name."""
    names = (path.name for path in SHM.iterdir())
    return frozenset(name for name in names if not name.startswith("sem.") or _may_be_ours(name))


def is_tensor_of_dead_worker(name: str) -> bool:
    """Whether it is the file of a tensor, made by a worker of this soak that is no more."""
    match = _TENSOR.match(name)
    folder = os.environ.get(_FOLDER)
    if match is None or folder is None:
        return False
    pid = match[1]
    return (Path(folder) / pid).exists() and not _is_running(int(pid))


def is_dead_semaphore(name: str) -> bool:
    """Whether it is a semaphore of this soak, when that has ended its processes, or nobody's."""
    if not _HALF_MADE_SEMAPHORE.fullmatch(name):
        return name.startswith(f"sem.{_SEMAPHORES}-")
    with suppress(OSError):  # it has got its name
        return time.time() - (SHM / name).stat().st_mtime > _MOMENT_S
    return False


def unlink(names: Iterable[str]) -> None:
    """Remove them, as those who made them would have."""
    for name in names:
        (SHM / name).unlink(missing_ok=True)


def _may_be_ours(semaphore: str) -> bool:
    is_half_made = _HALF_MADE_SEMAPHORE.fullmatch(semaphore) is not None
    return is_half_made or semaphore.startswith(f"sem.{_SEMAPHORES}-")


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
