"""Kill, interrupt and starve a trainer with each of the loaders; prints what happened."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

LOADERS = ("DataLoader", "StatefulDataLoader", "ShmDataLoader")
ROOT = Path(__file__).parents[2]
_PATIENCE_S = 30.0
_SMALL_SHM = "mount -t tmpfs -o size=64m tmpfs /dev/shm && exec"


class Victim:
    """A trainer in a session of its own."""

    def __init__(
        self, loader: str, nbytes: int = 1 << 16, num_kept: int = 0, shell: str = ""
    ) -> None:
        module = "benchmarks.reliability.victim"
        command = [sys.executable, "-m", module, loader, str(nbytes), str(num_kept)]
        if shell:
            command = ["unshare", "--mount", "sh", "-c", f'{shell} "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def read_line(self) -> str:
        """What it says next; "" when it has ended, or said nothing for a long time."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], _PATIENCE_S)
        return self.process.stdout.readline().strip() if readable else ""

    def children(self) -> list[psutil.Process]:
        """Its descendants, at this moment."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def end(self) -> str:
        """Kill what is left; the last line of its standard error."""
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.process.pid:
                    process.kill()
            except (OSError, psutil.NoSuchProcess):
                continue
        lines = self.process.communicate()[1].strip().splitlines()
        return lines[-1] if lines else ""


def seconds_until(condition: Callable[[], bool]) -> float | None:
    """How long it took to come true; None when it did not."""
    began = time.monotonic()
    while time.monotonic() - began < _PATIENCE_S:
        if condition():
            return time.monotonic() - began
        time.sleep(0.002)
    return None


def _is_gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _in_words(seconds: float | None) -> str:
    return f"more than {_PATIENCE_S:.0f} s" if seconds is None else f"{1000 * seconds:.0f} ms"


def maker_killed(loader: str) -> str:
    """The process that makes microbatches is killed."""
    victim = Victim(loader)
    victim.read_line()
    victim.children()[0].kill()
    time.sleep(2)
    code = victim.process.poll()
    error = victim.end()
    return "goes on" if code is None else f"ends with code {code}: {error[:100]}"


def trainer_killed(loader: str) -> str:
    """The trainer is killed: how long its processes stay."""
    victim = Victim(loader)
    victim.read_line()
    children = victim.children()
    victim.process.kill()
    seconds = seconds_until(lambda: all(map(_is_gone, children)))
    victim.end()
    return f"{len(children)} processes gone after {_in_words(seconds)}"


def interrupted(loader: str) -> str:
    """Ctrl-C at the terminal: SIGINT to the whole group."""
    victim = Victim(loader)
    victim.read_line()
    os.killpg(victim.process.pid, signal.SIGINT)
    seconds = seconds_until(lambda: victim.process.poll() is not None)
    return f"out after {_in_words(seconds)}, code {victim.process.poll()}, {victim.end()[:60]}"


def small_shm(loader: str) -> str:
    """A /dev/shm of 64 MB, and microbatches of 80 MB."""
    victim = Victim(loader, nbytes=80 << 20, shell=_SMALL_SHM)
    answer = victim.read_line()
    code = victim.process.poll()
    error = victim.end()
    if answer == "ready":
        return "works"
    how = f"hangs (over {_PATIENCE_S:.0f} s)" if code is None else f"ends with code {code}"
    return f"{how}: {error[:100]}"


def kept(loader: str) -> str:
    """1500 microbatches are kept, with at most 1024 descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    victim = Victim(loader, nbytes=1024, num_kept=1500)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    victim.read_line()
    answer = victim.read_line()
    num_fds = len(list(Path(f"/proc/{victim.process.pid}/fd").iterdir())) if answer == "kept" else 0
    error = victim.end()
    return f"works, {num_fds} descriptors" if num_fds else f"ends: {error[:100]}"


def main() -> None:
    """Measure everything once."""
    cases = (maker_killed, trainer_killed, interrupted, small_shm, kept)
    table = Table("case", *LOADERS)
    for case in cases:
        title = (case.__doc__ or case.__name__).rstrip(".")
        table.add_row(title, *(case(loader) for loader in LOADERS))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
