"""Question 3: decoding picture files with Pillow, which is work that no loader can speed up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.harness.cells import per_second, times_of
from benchmarks.harness.question import Bar, Column, Effort, Measurement, Plot, Question
from benchmarks.harness.spread import Rows
from benchmarks.harness.stream import CPU_AND_WAIT, timed_passes
from benchmarks.peers import PEERS, TITLES, Spec, num_at_once
from benchmarks.sources.pictures import (
    BATCH_NBYTES,
    BATCH_SIZE,
    PictureCheck,
    PictureFiles,
    write_pictures,
)
from benchmarks.sources.run_folder import written_once

NUM_ITEMS = 960_000
"""Whole rounds of the files, and more than anybody reads."""

CASES = {
    f"{kind}-{num_workers}": f"{kind.upper()} files, {num_workers} worker{'s'[: num_workers - 1]}"
    for kind in ("jpeg", "png")
    for num_workers in (1, 2)
}
SUBJECTS = {
    "in-process": "in process, DataLoader",
    **{name: TITLES[name] for name in ("dataloader", "stateful", "spdl", "grain", "fkat")},
}


@contextmanager
def _in_process(spec: Spec) -> Iterator[Iterable[Any]]:
    yield spec.in_process()


def _files(kind: str) -> list[Path]:
    return sorted(written_once(kind, partial(write_pictures, kind=kind)).iterdir())


@cache
def _check_of(kind: str) -> PictureCheck:
    """Has all files decoded, which takes a while."""
    return PictureCheck(_files(kind))


def measure(case: str, subject: str, effort: Effort) -> Measurement:
    """One loader in its steady state; the case is the kind of file and the number of workers."""
    kind, num_workers = case.split("-")
    dataset = PictureFiles(_files(kind), NUM_ITEMS)
    spec = Spec(dataset, BATCH_SIZE, num_workers=int(num_workers), max_nbytes=BATCH_NBYTES)
    open_loader = _in_process if subject == "in-process" else PEERS[subject]
    check = _check_of(kind)
    checks = (check.compare_all, check.compare_one)
    at_once = num_at_once(subject, spec)
    return timed_passes(partial(open_loader, spec), None, effort, *checks, at_once)


def _rate(rows: Rows) -> float:
    return rows["dataloader"]["wall_us"].median / rows["fkat"]["wall_us"].median


def _trainer_cpu_percent(rows: Rows) -> float:
    return 100 * rows["fkat"]["trainer_cpu_us"].median / rows["dataloader"]["trainer_cpu_us"].median


NOTES = """\
96 picture files of 320x256 are cut from seven photographs that come with scikit-image, and saved as
JPEG (quality 90) or PNG; they stay in the page cache. An item is a file read, decoded by Pillow,
resized to 224x224 (bilinear) and turned into a uint8 tensor; 32 of them make a batch, by torch's
default collate. The trainer decodes the same files beforehand, and compares every byte of a batch
in the warm-up, one line of one picture of each batch after it.

Decoding takes as long whoever asks for it, so nobody is much faster than DataLoader here: what is
to be gained is the trainer's CPU. Beyond the noise nobody may be slower.

Grain has 4 threads in each worker, one for each batch that it is ahead, and Pillow decodes without
the GIL: its one worker uses both cores. Of `DataLoader` and of fkat that takes two workers."""

QUESTION = Question(
    name="decode",
    title="What is left of it when the workers decode pictures?",
    cases=CASES,
    subjects=SUBJECTS,
    measure=measure,
    prepare=lambda case: _check_of(case.split("-")[0]),
    twice=("dataloader", "fkat"),
    columns=(
        Column("images/s", style=per_second("wall_us", BATCH_SIZE)),
        Column("rate", style=times_of("wall_us", "dataloader")),
        Column("wall us", "wall_us"),
        *CPU_AND_WAIT,
    ),
    bars=(
        *(Bar(case, "rate, times the DataLoader's", "x", 0.97, True, _rate) for case in CASES),
        *(
            Bar(case, "trainer CPU, of the DataLoader's", "%", 10, False, _trainer_cpu_percent)
            for case in CASES
        ),
    ),
    plots=(Plot("wall time per batch of 32 pictures, us", "wall_us"),),
    notes=NOTES,
)
