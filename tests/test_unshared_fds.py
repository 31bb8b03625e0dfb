"""A producer that the trainer forks closes the descriptors of the loaders made before its own."""

from __future__ import annotations

import functools
import gc
import operator
import os
import re
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch

from fkat.data import ShmDataLoader


def open_in(pid: int) -> Counter[str]:
    """How many descriptors of each kind a process has."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.path.lexists(link):  # but the listing's own
            links.append(str(link.readlink()))
    # Of a pidfd, kernels write "pidfd:[number]" or "anon_inode:[pidfd]".
    return Counter("pidfd" if "pidfd" in link else re.split(r"[:\[ ]+", link)[0] for link in links)


def open_at_rest(pid: int) -> Counter[str]:
    """Those that stay open: a producer opens a file for a moment, to read a limit."""
    samples = []
    for _ in range(10):
        samples.append(open_in(pid))
        time.sleep(0.01)
    return functools.reduce(operator.and_, samples)


def numbers(count: int = 4) -> list[torch.Tensor]:
    return [torch.full((2,), number) for number in range(count)]


def new_loader(factory=numbers, method: str = "fork") -> ShmDataLoader:
    loader = ShmDataLoader(0, factory, 1, multiprocessing_context=method)
    next(loader)
    return loader


def test_what_is_left_does_not_hold_rings():
    gc.collect()
    loaders, kinds = [], []
    for _ in range(4):
        loaders.append(new_loader())
        kinds.append(open_at_rest(loaders[-1]._feed.pids[0]))
    # Of seven descriptors two stay: the ring's reader, and multiprocessing, have one of their own.
    added = Counter({"pidfd": 1, "pipe": 1})
    assert [later - earlier for earlier, later in pairwise(kinds)] == [added] * 3


def test_the_loaders_before_it_go_on():
    loaders = [new_loader() for _ in range(3)]
    assert [
        [int(item[0]) for item in iter(functools.partial(next, each, None), None)]
        for each in loaders
    ] == [[1, 2, 3]] * 3
    assert [[int(item[0]) for item in each] for each in loaders] == [[0, 1, 2, 3]] * 3


def test_tensors_of_another_loader_can_be_read_in_the_factory():
    first = new_loader()
    held = next(first)
    second = ShmDataLoader(0, lambda: [held + 10], multiprocessing_context="fork")
    assert [item.tolist() for item in second] == [[11, 11]]


def test_what_is_collected_there_closes_nothing_that_was_opened_since():
    class Cycle:
        pass

    garbage = Cycle()
    garbage.itself, garbage.loader = garbage, new_loader()
    garbage_of_trainer = [garbage]
    del garbage

    def collect() -> list[Counter[str]]:
        before = open_in(os.getpid())
        garbage_of_trainer.clear()
        gc.unfreeze()  # or what was inherited would never be collected
        gc.collect()
        return [before - open_in(os.getpid())]

    second = ShmDataLoader(0, collect, multiprocessing_context="fork")
    assert list(second) == [Counter({"pidfd": 1})]  # the old reader's own


def test_a_loader_that_ended_is_not_closed_for(tmp_path):
    first = new_loader()
    first.teardown()
    first = None
    files = [(tmp_path / str(number)).open("w") for number in range(20)]  # with its old numbers

    def still_open() -> list[bool]:
        return [os.fstat(file.fileno()).st_nlink == 1 for file in files]

    second = ShmDataLoader(0, still_open, multiprocessing_context="fork")
    assert list(second) == [True] * 20
    for file in files:
        file.close()
