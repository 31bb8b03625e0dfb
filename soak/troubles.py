"""A thread that kills producers and stops them for a while, at random moments."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from soak.counts import Counts

_NAME = "fkat.data producer"
_MEAN_PAUSE_S = 0.8
_LONGEST_STOP_S = 0.3


class Troubles:
    """Trouble for the producers of this process, as long as the context lasts."""

    def __init__(self, seed: int, counts: Counts) -> None:
        self._chance = random.Random(seed)
        self._counts = counts
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="troubles")

    def __enter__(self) -> Troubles:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(self._chance.expovariate(1 / _MEAN_PAUSE_S)):
            producers = [p for p in multiprocessing.active_children() if p.name == _NAME]
            if not producers:
                continue
            with suppress(psutil.NoSuchProcess, OSError):  # gone meanwhile
                # psutil signals the process that it has seen, never one that got its number later.
                producer = psutil.Process(self._chance.choice(producers).pid)
                if not self._is_spared(producer):
                    self._trouble(producer)

    def _is_spared(self, producer: psutil.Process) -> bool:
        """Most of those that still import torch, which takes seconds: some shall get to run."""
        has_ring = "/memfd:fkat" in Path(f"/proc/{producer.pid}/maps").read_text()
        return not has_ring and self._chance.random() < 0.9

    def _trouble(self, producer: psutil.Process) -> None:
        if self._chance.random() < 0.6:
            producer.kill()
            self._counts.add("producers killed")
            return
        producer.suspend()
        try:
            time.sleep(self._chance.uniform(0.0, _LONGEST_STOP_S))
            if self._chance.random() < 0.3:
                producer.kill()  # while it is stopped
                self._counts.add("producers killed")
        finally:
            producer.resume()
        self._counts.add("producers stopped and continued")
