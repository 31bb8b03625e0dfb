"""``python -m soak``: loaders in trouble; exits with 1 if anything was lost, torn or left behind.

Needs no accelerator. What happens is drawn from the seed, but for the moments at which processes
run: a run with the same seed is alike, not the same.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import traceback
import warnings

from rich.console import Console

from soak.counts import Counts
from soak.leaks import Usage, look_for_leaks
from soak.life import Drawn, Life, OutOfStepError
from soak.payload import Shape
from soak.report import print_report
from soak.subjects import METHODS, Setup, Subject, draw_subject, open_loader
from soak.troubles import Troubles

_ROUND_S = 15.0  # then everything is dropped, and nothing may be left
_NUM_LIVES = 3
_HANG_S = 180.0  # between two steps of the trainer, which take milliseconds


def warm_up() -> None:
    """Let multiprocessing start its helpers, which stay, and are no leaks."""
    multiprocessing.set_forkserver_preload(["fkat.data", "soak.payload"])
    for method in METHODS:
        subject = Subject(0, is_sharded=False, shape=Shape(max_words=10, max_pause_s=0.0))
        loader = open_loader(subject, Setup(method, 0, 1, 1, 3))
        next(loader)
        loader.teardown()
    gc.collect()


def live_until(end: float, chance: random.Random, counts: Counts, drawn: Drawn) -> None:
    """One round: some loaders at once, in turns, until the time is up."""
    lives = [Life(draw_subject(chance), chance, counts, drawn) for _ in range(_NUM_LIVES)]
    while time.monotonic() < end:
        faulthandler.dump_traceback_later(_HANG_S, exit=True)
        turn = chance.randrange(len(lives))
        try:
            lives[turn].live()
        except Exception as error:
            if not isinstance(error, OutOfStepError):
                counts.fail("unexpected errors", traceback.format_exc())
            lives[turn] = Life(draw_subject(chance), chance, counts, drawn)
    for life in lives:
        life.end()


def soak(seconds: float, seed: int) -> Counts:
    """Run for so long; the counts."""
    counts, drawn, chance = Counts(), Drawn(), random.Random(seed)
    warm_up()
    before = Usage.now()
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        with Troubles(seed + number, counts):
            live_until(min(end, time.monotonic() + _ROUND_S), chance, counts, drawn)
        look_for_leaks(before, counts)
    faulthandler.cancel_dump_traceback_later()
    return counts


def run_in_own_session(arguments: list[str]) -> int:
    """Start this again where every process of the session is one of its own; the exit code."""
    run = subprocess.Popen([sys.executable, "-m", "soak", *arguments], start_new_session=True)
    while True:
        try:
            return run.wait()
        except KeyboardInterrupt:
            run.send_signal(signal.SIGINT)


def main(arguments: list[str]) -> int:
    """Run as the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    options = parser.parse_args(arguments)
    if os.getsid(0) != os.getpid():
        return run_in_own_session(arguments)
    console = Console()
    console.print(f"soak of {options.minutes:g} minutes, seed {options.seed}")
    logging.getLogger("fkat.data").setLevel(logging.ERROR)  # a line for each of the restarts
    warnings.filterwarnings("ignore", "more than 8 microbatches are kept alive")
    began = time.monotonic()
    counts = soak(60 * options.minutes, options.seed)
    print_report(counts, options.seed, time.monotonic() - began, console)
    return 0 if counts.is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
