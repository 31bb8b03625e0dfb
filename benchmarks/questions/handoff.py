"""Question 1: handing a ready-made microbatch from a producer process to the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from benchmarks.harness.cells import scaled, share_of, times_of
from benchmarks.harness.question import Bar, Column, Effort, Measurement, Plot, Question
from benchmarks.harness.spread import Rows
from benchmarks.harness.stream import timed_passes
from benchmarks.peers import PEERS, TITLES, Spec
from benchmarks.questions import floors
from benchmarks.sources.payload import SpotCheck, compare_all
from benchmarks.sources.ready import (
    TWENTY,
    Case,
    PoolDataset,
    TensorSpec,
    as_it_is,
    equal_tensors,
    pool_of,
)

KIB, MIB = 1 << 10, 1 << 20

CASES = {
    "a": TWENTY,
    "b": Case(
        "3 token tensors of 4x8192, 544 KiB in all",
        (
            TensorSpec("input_ids", "int64", (4, 8192)),
            TensorSpec("position_ids", "int64", (4, 8192)),
            TensorSpec("mask", "uint8", (4, 8192)),
        ),
    ),
    "c": equal_tensors("1 tensor of 4 KiB", 1, 4 * KIB),
    "e": equal_tensors("1 tensor of 1 MiB", 1, MIB),
    "16": equal_tensors("1 tensor of 16 MiB", 1, 16 * MIB),
    "d": equal_tensors("2 tensors of 32 MiB", 2, 32 * MIB),
    "256": equal_tensors("1 tensor of 256 MiB", 1, 256 * MIB),
    "500": equal_tensors("500 tensors of 1 KiB", 500, KIB),
}

FLOORS: dict[str, Callable[[Case], AbstractContextManager[Iterable[Any]]]] = {
    "memcpy": floors.memcpy,
    "plain": floors.plain_loop,
}

SUBJECTS = {
    "memcpy": "one memcpy, warm to warm",
    "plain": "in process, plain loop",
    **{name: TITLES[name] for name in ("dataloader", "stateful", "spdl-iterate", "grain")},
    **{name: TITLES[name] for name in ("published", "fkat")},
}


def measure(case_name: str, subject: str, effort: Effort) -> Measurement:
    """One loader in its steady state."""
    case = CASES[case_name]
    pool_of(case)  # before the loader forks: the producer starts with warm memory
    if subject in FLOORS:
        open_loader = partial(FLOORS[subject], case)
    else:
        spec = Spec(PoolDataset(case), collate_fn=as_it_is, max_nbytes=case.nbytes)
        open_loader = partial(PEERS[subject], spec)
    return timed_passes(open_loader, None, effort, partial(compare_all, case), SpotCheck(case))


def _wall_us(rows: Rows) -> float:
    return rows["fkat"]["wall_us"].median


def _rate_of(other: str, rows: Rows) -> float:
    return rows[other]["wall_us"].median / rows["fkat"]["wall_us"].median


def _memcpy_percent(rows: Rows) -> float:
    return 100 * _rate_of("memcpy", rows)


def _trainer_cpu_percent(other: str, rows: Rows) -> float:
    cpu_us = {name: rows[name]["trainer_cpu_us"].median for name in ("fkat", other)}
    return 100 * cpu_us["fkat"] / cpu_us[other]


_ISSUE_2 = (
    *(
        Bar(case, "rate, times the DataLoader's", "x", limit, True, partial(_rate_of, "dataloader"))
        for case, limit in (("a", 100), ("b", 25), ("c", 20))
    ),
    *(
        Bar(case, "wall time per microbatch", "us", limit, False, _wall_us)
        for case, limit in (("a", 80), ("c", 35))
    ),
    Bar("d", "bandwidth, of one memcpy's", "%", 85, True, _memcpy_percent),
    *(
        Bar(
            case,
            "trainer CPU, of the DataLoader's",
            "%",
            10,
            False,
            partial(_trainer_cpu_percent, "dataloader"),
        )
        for case in "abcd"
    ),
)

_ISSUE_6 = (
    *(
        Bar(case, "rate, times SPDL's pool", "x", limit, True, partial(_rate_of, "spdl-iterate"))
        for case, limit in {"a": 4, "b": 4, "c": 4, "e": 2, "16": 1, "d": 1, "256": 1}.items()
    ),
    *(
        Bar(case, "bandwidth, of one memcpy's", "%", 90, True, _memcpy_percent)
        for case in ("16", "d", "256")
    ),
    *(
        Bar(
            case,
            "trainer CPU, of SPDL's pool",
            "%",
            100 / 3,
            False,
            partial(_trainer_cpu_percent, "spdl-iterate"),
        )
        for case in CASES
    ),
)

NOTES = """\
The microbatches are ready in warm memory, so no loader can hide behind slow data. Item `i` is
`torch.from_numpy` over pool entry `i % 3`: a new storage each time, because torch copies a storage
to shared memory only when it first sends it. One worker, 4 microbatches ahead, for every loader.

* With two cores, wall time is about the larger of trainer and producer CPU, plus waking up.
* Trainer CPU is what the training step loses even if data is always there in time. Of all the
  columns it is the one that a busy GPU does not hide. Here the trainer waits for each microbatch,
  so being woken is part of it: fkat's once for each; SPDL's pool hands over five at a time and
  wakes once for them (see its p99 wait).
* The trainer does not read all the bytes. Reading a tensor of the DataLoader for the first time
  costs more than is shown (its mapping is fresh: a page fault every 4 KiB), one of fkat's does not.
* Up to 1 MiB memcpy stays in the cache; at 64 MiB and more it is DRAM bandwidth. More than 100 % of
  it: from 8 MiB on fkat writes past the caches, which numpy's copy does not at every size.

Where it loses: **data that costs nothing to make.** No hand-off beats not handing over, see the
plain loop. A producer process pays where making a microbatch costs the trainer more time than
taking one over, which is the trainer CPU of the last row. Below that, use
`DataLoader(num_workers=0)`."""

QUESTION = Question(
    name="handoff",
    title="What does it cost to hand over a microbatch that is ready?",
    cases={name: case.title for name, case in CASES.items()},
    subjects=SUBJECTS,
    measure=measure,
    prepare=lambda case: pool_of(CASES[case]),
    columns=(
        Column("wall us", "wall_us"),
        Column("rate", style=times_of("wall_us", "dataloader")),
        Column("memcpy", style=share_of("wall_us", "memcpy")),
        Column("trainer CPU us", "trainer_cpu_us", "number"),
        Column("workers CPU us", "workers_cpu_us", "number"),
        Column("p99 wait us", "p99_wait_us", "number"),
        Column("first ms", style=scaled("first_s", 1e3)),
        Column("memory MiB", "added_mib", "number"),
    ),
    bars=_ISSUE_2 + _ISSUE_6,
    plots=(Plot("wall time per microbatch, us", "wall_us"),),
    notes=NOTES,
)
