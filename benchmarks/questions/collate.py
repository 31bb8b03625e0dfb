"""Question 2: collating images that lie in memory, with torch's default collate."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import default_collate

from benchmarks.harness.cells import per_second, share_of
from benchmarks.harness.question import Bar, Column, Effort, Measurement, Plot, Question
from benchmarks.harness.spread import Rows
from benchmarks.harness.stream import CPU_AND_WAIT, timed_passes
from benchmarks.peers import PEERS, TITLES, Spec, num_at_once
from benchmarks.sources.images import (
    BATCH_NBYTES,
    BATCH_SIZE,
    ImagesInMemory,
    all_images,
    compare_all,
    compare_one,
)

NUM_ITEMS = 10_000 * 3 * BATCH_SIZE
"""Whole rounds of the images, and more than anybody reads."""

FLOOR = "floor"
RIVALS = ("dataloader", "stateful", "spdl", "spdl-huge-pages", "grain")
SUBJECTS = {
    FLOOR: "in process, torch.stack(out=warm buffer)",
    "in-process": "in process, default_collate",
    **{name: TITLES[name] for name in ("dataloader", "stateful", "spdl")},
    "spdl-huge-pages": f"{TITLES['spdl']}, THP_MEM_ALLOC_ENABLE=1",
    **{name: TITLES[name] for name in ("grain", "fkat")},
    "fkat-own-collate": f"{TITLES['fkat']}, a collate of the user's own",
}


def _batches() -> Iterator[list[torch.Tensor]]:
    dataset = ImagesInMemory(NUM_ITEMS)
    for first in range(0, NUM_ITEMS, BATCH_SIZE):
        yield [dataset[index] for index in range(first, first + BATCH_SIZE)]


@contextmanager
def _floor() -> Iterator[Iterable[Any]]:
    buffer = torch.empty_like(all_images()[0])
    yield (torch.stack(images, out=buffer) for images in _batches())


@contextmanager
def _in_process() -> Iterator[Iterable[Any]]:
    yield map(default_collate, _batches())


def own_collate(images: list[torch.Tensor]) -> torch.Tensor:
    """A collate function that knows of no slot: it makes its own tensor."""
    return torch.stack(images)


def _opened(subject: str, spec: Spec) -> AbstractContextManager[Iterable[Any]]:
    if subject == FLOOR:
        return _floor()
    if subject == "in-process":
        return _in_process()
    if subject == "fkat-own-collate":
        return PEERS["fkat"](replace(spec, collate_fn=own_collate))
    if subject == "spdl-huge-pages":
        # torch reads it once, at its first tensor: only in a new process is it in time. SPDL's pool
        # takes the default start method, whatever its process is started with.
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
        multiprocessing.set_start_method("spawn", force=True)
        return PEERS["spdl"](replace(spec, start_method="spawn"))
    return PEERS[subject](spec)


def measure(case: str, subject: str, effort: Effort) -> Measurement:
    """One loader in its steady state; the case is the number of workers."""
    all_images()  # before a loader forks: its workers start with warm memory
    dataset = ImagesInMemory(NUM_ITEMS)
    spec = Spec(dataset, BATCH_SIZE, num_workers=int(case), max_nbytes=BATCH_NBYTES)
    open_loader = partial(_opened, subject, spec)
    at_once = num_at_once(subject, spec)
    return timed_passes(open_loader, None, effort, compare_all, compare_one, at_once)


def _floor_percent(rows: Rows) -> float:
    return 100 * rows[FLOOR]["wall_us"].median / rows["fkat"]["wall_us"].median


def _times_best_rival(rows: Rows) -> float:
    best = min(rows[name]["wall_us"].median for name in RIVALS if name in rows)
    return best / rows["fkat"]["wall_us"].median


NOTES = """\
256 uint8 images of 3x224x224 make a batch of 38.5 MB; 768 distinct ones lie in memory (116 MB, more
than a cache holds), so what is left to do is torch's default collate: one copy of each byte.
Workers prefetch 4 batches each. Every byte of a batch is compared in the warm-up, one line of one
image of each batch after it.

* The floor copies into a buffer that is warm, in the trainer itself. What stands between it and
  `default_collate` in process is fresh memory: a page fault every 4 KiB.
* fkat's producers collate straight into a slot of the ring, which is mapped already and used again
  and again. A collate function that makes its own tensor (last row) costs a second copy.
* SPDL's pipeline has threads in one process where the others have processes. It is measured with
  huge pages for its private batches, too.
* Grain stacks numpy arrays straight into shared memory, a new one for each batch.
* With two workers on two cores, the trainer's own work, small as it is, competes with theirs; the
  floor shows what one core copies when nothing else asks for memory."""

QUESTION = Question(
    name="collate",
    title="How fast are images that lie in memory collated?",
    cases={"1": "256 images of 3x224x224, 1 worker", "2": "256 images of 3x224x224, 2 workers"},
    subjects=SUBJECTS,
    measure=measure,
    prepare=lambda case: all_images(),
    columns=(
        Column("images/s", style=per_second("wall_us", BATCH_SIZE)),
        Column("of the floor", style=share_of("wall_us", FLOOR)),
        Column("wall us", "wall_us"),
        *CPU_AND_WAIT,
    ),
    bars=(
        Bar("1", "rate, of a stack into a warm buffer", "%", 80, True, _floor_percent),
        Bar("1", "rate, times the best peer's", "x", 1, True, _times_best_rival),
        Bar("2", "rate, times the best peer's", "x", 1, True, _times_best_rival),
    ),
    plots=(Plot("wall time per batch of 256 images, us", "wall_us"),),
    notes=NOTES,
)
