"""Trainers with loaders of their own, which are killed at random moments."""

from __future__ import annotations

import logging
import multiprocessing
import random
import time
import warnings
from multiprocessing.connection import Connection

import psutil

from soak.counts import Counts
from soak.leaks import continue_stopped
from soak.lives import Lives
from soak.troubles import Troubles

_NUM_LIVES = 2
_LONGEST_LIFE_S = 3.0
_LONGEST_STOP_S = 0.3


def prepare() -> None:
    """Print nothing of what is expected here; import for a forkserver's children but once."""
    multiprocessing.set_forkserver_preload(["fkat.data", "soak.trainers"])
    logging.getLogger("fkat.data").setLevel(logging.ERROR)  # a line for each of the restarts
    warnings.filterwarnings("ignore", "more than 8 microbatches are kept alive")


class DoomedTrainer:
    """A process with loaders, producers and troubles, until it is killed.

    Nothing of it may be left then: the next look for leaks sees what is.

    Args:
        chance: When it is killed.
        counts: Where that is counted.
    """

    def __init__(self, chance: random.Random, counts: Counts) -> None:
        self._chance = chance
        self._counts = counts
        # No fork: the trainer would have our loaders' rings mapped, which outlive theirs then.
        context = multiprocessing.get_context("forkserver")
        self._results, results = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_train, args=(chance.randrange(1 << 31), results), name="soak trainer"
        )
        self._process.start()
        results.close()
        self._num_delivered = 0
        self._is_old = chance.random() < 0.3  # to be killed while it starts
        self._end = time.monotonic() + chance.uniform(0.0, _LONGEST_LIFE_S)

    def is_to_die(self) -> bool:
        """Whether its time has come: some have delivered nothing by then, most have."""
        self._take_results()
        if self._num_delivered and not self._is_old:
            self._is_old = True
            self._end = time.monotonic() + self._chance.uniform(0.0, _LONGEST_LIFE_S)
        return self._is_old and time.monotonic() > self._end

    def kill(self) -> None:
        """Now, perhaps while it is stopped."""
        if not self._process.is_alive():
            self._counts.fail("trainers that failed", "one has ended by itself")
        else:
            process = psutil.Process(self._process.pid)
            if self._chance.random() < 0.5:
                process.suspend()
                time.sleep(self._chance.uniform(0.0, _LONGEST_STOP_S))
                if self._chance.random() < 0.7:
                    process.resume()
                    self._counts.add("trainers stopped and continued")
                    time.sleep(self._chance.uniform(0.0, _LONGEST_STOP_S))
            process.kill()
            self._counts.add("trainers killed")
        self._process.join()
        continue_stopped()
        self._take_results()
        self._results.close()
        self._counts.add("microbatches of killed trainers", self._num_delivered)

    def _take_results(self) -> None:
        try:
            while self._results.poll():
                result = self._results.recv()
                if isinstance(result, int):
                    self._num_delivered = result
                else:
                    self._counts.fail("trainers that failed", result)
        except (EOFError, OSError):  # it was killed
            pass


def _train(seed: int, results: Connection) -> None:
    prepare()
    soak = multiprocessing.parent_process()
    assert soak is not None
    counts, chance = Counts(), random.Random(seed)
    with Troubles(seed, counts):
        lives = Lives(_NUM_LIVES, chance, counts, {})
        while soak.is_alive() and not counts.reports:
            lives.take_turn()
            results.send(counts.happened["microbatches delivered"])
        for report in counts.reports:
            results.send(report)
