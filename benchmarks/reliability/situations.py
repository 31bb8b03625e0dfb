"""Each situation, the same for every loader: what is done to a trainer, and what became of it."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.reliability.victim import READY_AT
from benchmarks.reliability.watch import (
    PATIENCE_S,
    START_PATIENCE_S,
    Victim,
    are_gone,
    seconds_until,
)

_SMALL_SHM = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
_TIMEOUT_S = 2
# SPDL's pool waits 60 s for room before it says that there is none.
_LONG_PATIENCE_S = 75.0


class Outcome(NamedTuple):
    """What happened; ``{}`` in the words stands for the time it took.

    ``error`` is what the training loop raised; ``has_hung`` if the end was not waited for.
    """

    words: str
    seconds: float | None = None
    error: str = ""
    has_hung: bool = False


def _hung(verb: str, patience_s: float = PATIENCE_S) -> Outcome:
    return Outcome(f"{verb} (looked at for {patience_s:.0f} s)", has_hung=True)


def _went_on(victim: Victim, words: str = "works", patience_s: float = PATIENCE_S) -> Outcome:
    """Whether it says "done" next, and what it does if not."""
    began = time.monotonic()
    said, _, rest = victim.read_line(patience_s).partition(" ")
    seconds = time.monotonic() - began
    if said == "done":
        return Outcome(words.format(rest))
    if said == "raises":
        error = rest.partition(" ")[0]
        ends = "" if seconds_until(victim.is_over) is not None else ", and never ends"
        return Outcome(f"{error} after {{}}{ends}", seconds, rest)
    if victim.is_over():
        return Outcome(f"ends with code {victim.process.returncode} after {{}}", seconds)
    return _hung("hangs", patience_s)


def maker_killed(loader: str) -> Outcome:
    """The process that makes microbatches is killed."""
    with Victim(loader, "train") as victim:
        victim.await_ready().kill()
        return _went_on(victim, "goes on; nothing lost or repeated")


def _gone(victim: Victim, send: Callable[[], None]) -> Outcome:
    processes = victim.everybody()[1:]
    send()
    seconds = seconds_until(lambda: are_gone(processes))
    outcome = _hung("alive") if seconds is None else Outcome("gone after {}", seconds)
    if files := victim.num_files_left():
        outcome = outcome._replace(words=f"{outcome.words}, {files} in /dev/shm")
    return outcome


def trainer_killed(loader: str) -> Outcome:
    """The trainer is killed: what becomes of its processes."""
    with Victim(loader, "train") as victim:
        victim.await_ready()
        return _gone(victim, victim.process.kill)


def trainer_killed_gil_held(loader: str) -> Outcome:
    """The trainer is killed while the dataset holds the GIL: what becomes of its processes."""
    with Victim(loader, "train", "--trouble", "gil") as victim:
        victim.await_ready()
        time.sleep(2)  # the maker gets there
        return _gone(victim, victim.process.kill)


def _out(victim: Victim, send: Callable[[], None]) -> Outcome:
    processes = victim.everybody()
    send()
    seconds = seconds_until(victim.is_over)
    if seconds is None:
        return _hung("hangs")
    words = f"out after {{}}, code {victim.process.returncode}"
    if seconds_until(lambda: are_gone(processes)) is None:
        words += ", leaves processes"
    return Outcome(words, seconds)


def interrupted(loader: str) -> Outcome:
    """Ctrl-C at the terminal (SIGINT to the whole group)."""
    with Victim(loader, "train") as victim:
        victim.await_ready()
        return _out(victim, lambda: os.killpg(victim.process.pid, signal.SIGINT))


def terminated(loader: str) -> Outcome:
    """SIGTERM to the trainer, whose own handler calls sys.exit(3)."""
    with Victim(loader, "train_until_sigterm") as victim:
        victim.await_ready()
        return _out(victim, victim.process.terminate)


def left(loader: str) -> Outcome:
    """The trainer breaks out of the loop and drops the loader: what becomes of the maker."""
    with Victim(loader, "leave") as victim:
        maker = victim.await_ready()
        victim.tell()
        seconds = seconds_until(lambda: are_gone([maker]))
        if victim.read_line() != "left":
            return _hung("hangs")
        return _hung("alive") if seconds is None else Outcome("gone after {}", seconds)


def hangs(loader: str) -> Outcome:
    """The dataset hangs for ever, with a timeout of 2 s."""
    with Victim(loader, "train", "--trouble", "hang", "--timeout", str(_TIMEOUT_S)) as victim:
        victim.await_ready()
        outcome = _went_on(victim)
        where = "says" if "in hang_for_ever" in victim.stderr() else "does not say"
        return outcome._replace(words=f"{outcome.words}; {where} where it hangs")


def _forked(loader: str, task: str) -> Outcome:
    with Victim(loader, task) as victim:
        victim.await_ready()
        return _went_on(victim)


def forked_child_exits_at_once(loader: str) -> Outcome:
    """The trainer forks; the child drops the microbatches that are held, and calls os._exit."""
    return _forked(loader, "fork_and_exit_at_once")


def forked_child_exits(loader: str) -> Outcome:
    """The trainer forks; the child drops the microbatches that are held, and calls sys.exit."""
    return _forked(loader, "fork_and_exit")


def resumed(loader: str) -> Outcome:
    """The trainer is killed, its state saved behind each microbatch: what the next run gets."""
    with tempfile.NamedTemporaryFile() as state:
        with Victim(loader, "save", "--state", state.name) as victim:
            victim.await_ready()
            victim.process.kill()
        with Victim(loader, "resume", "--state", state.name) as victim:
            first = int(victim.read_line(START_PATIENCE_S).removeprefix("first "))
        has_state = Path(state.name).stat().st_size > 0
    due = READY_AT + 1
    if not has_state:
        return Outcome(f"has no state to load: {due - first} repeated")
    return Outcome(f"{max(first - due, 0)} lost, {max(due - first, 0)} repeated")


def small_shm(loader: str) -> Outcome:
    """A /dev/shm of 64 MB, and microbatches of 80 MB."""
    with Victim(loader, "train_briefly", "--nbytes", str(80 << 20), shell=_SMALL_SHM) as victim:
        victim.await_ready()
        return _went_on(victim)


def kept(loader: str) -> Outcome:
    """1500 microbatches are kept, with at most 1024 descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    with Victim(loader, "keep") as victim:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        victim.await_ready()
        return _went_on(victim, "works, {} descriptors", _LONG_PATIENCE_S)


SITUATIONS: tuple[Callable[[str], Outcome], ...] = (
    maker_killed,
    trainer_killed,
    trainer_killed_gil_held,
    interrupted,
    terminated,
    left,
    hangs,
    forked_child_exits_at_once,
    forked_child_exits,
    resumed,
    small_shm,
    kept,
)
