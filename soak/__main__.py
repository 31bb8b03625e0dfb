"""``python -m soak``: loaders in trouble; exits with 1 if anything was lost, torn or left behind.

What happens is drawn from the seed, but for the moments at which processes run: a run with the
same seed is alike, not the same. It goes on beyond its time until there was every kind of trouble.
Ctrl-C ends it early, with the counts so far (and with exit code 130 if nothing was wrong). Needs no
accelerator.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import random
import signal
import subprocess
import sys
import time

from rich.console import Console

from soak.counts import Counts
from soak.deadline import Deadline
from soak.leaks import Usage, look_for_leaks
from soak.left import known_by_name
from soak.lives import Lives
from soak.payload import Shape
from soak.report import print_report
from soak.stream import Drawn
from soak.subjects import METHODS, Setup, Subject, open_loader
from soak.trainers import DoomedTrainer, prepare
from soak.troubles import Troubles

_ROUND_S = 15.0  # then everything is dropped, and nothing may be left
_NUM_LIVES = 3
_HANG_S = 180.0  # between two steps of the trainer, which take milliseconds


def warm_up() -> None:
    """Let multiprocessing start its helpers, which stay, and are no leaks."""
    for method in METHODS:
        subject = Subject(0, is_sharded=False, shape=Shape(max_words=10, max_pause_s=0.0))
        loader = open_loader(subject, Setup(method, 0, 1, 1, 3))
        next(loader)
        loader.teardown()
    gc.collect()


def is_over(deadline: Deadline, counts: Counts) -> bool:
    """Whether its time is up, and there was every trouble (or something is wrong already)."""
    if deadline.was_cut:
        return True
    return deadline.has_come() and (counts.has_all_troubles or bool(counts.reports))


def live_one_round(deadline: Deadline, chance: random.Random, counts: Counts, drawn: Drawn) -> None:
    """One round: some loaders at once, in turns, beside a trainer that is killed now and then."""
    end = time.monotonic() + _ROUND_S
    lives = Lives(_NUM_LIVES, chance, counts, drawn)
    trainer = DoomedTrainer(chance, counts)
    while time.monotonic() < end and not is_over(deadline, counts):
        faulthandler.dump_traceback_later(_HANG_S, exit=True)
        lives.take_turn()
        if trainer.is_to_die():
            trainer.kill()
            trainer = DoomedTrainer(chance, counts)
    trainer.kill()
    lives.end()


def soak(deadline: Deadline, seed: int) -> Counts:
    """Run so long; the counts."""
    counts, chance = Counts(), random.Random(seed)
    drawn: Drawn = {}
    before = Usage.now()
    number = 0
    while not is_over(deadline, counts):
        number += 1
        with Troubles(seed + number, counts):
            live_one_round(deadline, chance, counts, drawn)
        look_for_leaks(before, counts)
    faulthandler.cancel_dump_traceback_later()
    return counts


def run_in_own_session(arguments: list[str]) -> int:
    """Start this again where every process of the session is one of its own; the exit code."""
    run = subprocess.Popen([sys.executable, "-m", "soak", *arguments], start_new_session=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it would not reach the session
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
    deadline = Deadline()
    console = Console()
    console.print(f"soak of {options.minutes:g} minutes, seed {options.seed}")
    prepare()
    with known_by_name():
        warm_up()
        began = time.monotonic()
        deadline.be_in(60 * options.minutes)
        counts = soak(deadline, options.seed)
    print_report(counts, options.seed, time.monotonic() - began, console)
    if deadline.was_cut and counts.is_good:
        return 128 + signal.SIGINT
    return 0 if counts.is_good and counts.happened["microbatches delivered"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
