"""A trainer to do harm to: iterates over one of the loaders, in a process of its own."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.loaders import FOREVER_S, LOADERS, TROUBLES, open_loader

READY_AT = 10
DONE_AT = 200
NUM_KEPT = 1500
NUM_HELD = 4
SIGTERM_CODE = 3
STEP_S = 0.005
"""Of training: what is done to a trainer that is ready has a second, until it is done."""


class WrongMicrobatchError(Exception):
    """Something was lost, repeated, torn or overwritten."""


def number_of(microbatch: torch.Tensor) -> int:
    """Which one it is."""
    return int(microbatch[8:16].view(torch.int64))


def check(microbatch: torch.Tensor, number: int) -> None:
    """Every byte is what it should be."""
    found = number_of(microbatch)
    if found != number or not bool((microbatch[16:] == number % 251).all()):
        raise WrongMicrobatchError(f"{found} where {number} should be")


def say(*words: object) -> None:
    """To the process that watches this one; in one piece, whatever a signal handler may raise."""
    print(" ".join(map(str, words)), flush=True)


def train(microbatches: Iterable[torch.Tensor]) -> None:
    """For ever."""
    for number, microbatch in enumerate(microbatches):
        check(microbatch, number)
        if number == READY_AT:
            say("ready", int(microbatch[:8].view(torch.int64)))
        if number == DONE_AT:
            say("done")
        if number >= READY_AT:
            time.sleep(STEP_S)


def train_briefly(microbatches: Iterable[torch.Tensor]) -> None:
    """Three steps."""
    say("ready", os.getpid())
    for number, microbatch in zip(range(3), microbatches, strict=False):
        check(microbatch, number)
    say("done")
    time.sleep(FOREVER_S)


def train_until_sigterm(microbatches: Iterable[torch.Tensor]) -> None:
    """With a handler of its own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_CODE))
    train(microbatches)


def keep(microbatches: Iterable[torch.Tensor]) -> None:
    """Keep every microbatch, and look at all of them at the end."""
    kept: list[torch.Tensor] = []
    for microbatch in microbatches:
        kept.append(microbatch)
        if len(kept) == 1:
            say("ready", os.getpid())
        if len(kept) == NUM_KEPT:
            break
    for number, microbatch in enumerate(kept):
        check(microbatch, number)
    say("done", len(list(Path("/proc/self/fd").iterdir())))
    time.sleep(FOREVER_S)


def leave(microbatches: Iterable[torch.Tensor]) -> None:
    """Break out of the loop when told to, and forget the loader."""
    for number, microbatch in enumerate(microbatches):
        check(microbatch, number)
        if number == READY_AT:
            say("ready", int(microbatch[:8].view(torch.int64)))
            sys.stdin.readline()
            break


def fork(microbatches: Iterable[torch.Tensor], end_child: Callable[[int], object]) -> None:
    """Fork while microbatches are held; the child forgets them and ends."""
    stream = iter(microbatches)
    held = [next(stream) for _ in range(NUM_HELD)]
    say("ready", os.getpid())
    child = os.fork()
    if child == 0:
        held.clear()
        gc.collect()
        end_child(0)
    os.waitpid(child, 0)
    for number in range(NUM_HELD, DONE_AT):
        check(next(stream), number)
        for held_number, held_one in enumerate(held):
            check(held_one, held_number)
    say("done")
    time.sleep(FOREVER_S)


def save(loader: Any, path: Path) -> None:
    """Save the state, if there is one, behind every microbatch; stop and wait for the end."""
    for number, _ in enumerate(loader):
        if hasattr(loader, "state_dict"):
            torch.save(loader.state_dict(), path)
        if number == READY_AT:
            say("ready", os.getpid())
            time.sleep(FOREVER_S)


def resume(loader: Any, path: Path) -> None:
    """Say which microbatch comes first after the saved state, or without one."""
    if path.stat().st_size:
        loader.load_state_dict(torch.load(path, weights_only=False))
    stream: Iterator[torch.Tensor] = iter(loader)
    say("first", number_of(next(stream)))
    time.sleep(FOREVER_S)


def main() -> None:
    """What the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loader", choices=LOADERS)
    parser.add_argument("task")
    parser.add_argument("--nbytes", type=int, default=1 << 16)
    parser.add_argument("--trouble", choices=TROUBLES, default="none")
    parser.add_argument("--timeout", type=int, default=0)
    parser.add_argument("--state", type=Path, default=Path())
    options = parser.parse_args()
    tasks: dict[str, Callable[[Any], None]] = {
        "train": train,
        "train_briefly": train_briefly,
        "train_until_sigterm": train_until_sigterm,
        "keep": keep,
        "leave": leave,
        "fork_and_exit_at_once": lambda loader: fork(loader, os._exit),
        "fork_and_exit": lambda loader: fork(loader, sys.exit),
        "save": lambda loader: save(loader, options.state),
        "resume": lambda loader: resume(loader, options.state),
    }
    # A shell that runs this in the background has SIGINT ignored, which is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)  # the machine may be busy, and nothing here is large
    try:
        # No name here keeps the loader: a task that returns has forgotten it.
        tasks[options.task](
            open_loader(options.loader, options.nbytes, options.trouble, options.timeout)
        )
    except Exception as error:
        say("raises", type(error).__name__, " ".join(str(error).split()))
        raise
    gc.collect()
    say("left")
    time.sleep(FOREVER_S)


if __name__ == "__main__":
    main()
