"""Question 8: cost against the number of tensors, rate against the number of producers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from benchmarks.harness.cells import number, per_second
from benchmarks.harness.question import CannotDoError, Column, Effort, Measurement, Plot, Question
from benchmarks.harness.spread import Rows
from benchmarks.harness.stream import CPU_AND_WAIT, timed_passes
from benchmarks.peers import PEERS, TITLES, Spec
from benchmarks.sources.costly import CostlyTensors, check_number
from benchmarks.sources.payload import SpotCheck, compare_all
from benchmarks.sources.ready import PoolDataset, as_it_is, equal_tensors, pool_of

COST_S = 1e-3

TENSORS = {
    f"tensors-{count}": equal_tensors(f"{count} tensors of 1 KiB", count, 1024)
    for count in (1, 5, 20, 100, 500)
}
READY = equal_tensors("1 tensor of 1 MiB", 1, 1 << 20)
PRODUCERS = (1, 2, 4, 8)

CASES = {
    **{name: case.title for name, case in TENSORS.items()},
    **{f"ready-{count}": f"{READY.title}, ready, {count} workers" for count in PRODUCERS},
    **{f"work-{count}": f"1 ms of CPU a microbatch, {count} workers" for count in PRODUCERS},
}

SUBJECTS = {name: TITLES[name] for name in ("dataloader", "spdl-iterate", "fkat")}


def measure(case_name: str, subject: str, effort: Effort) -> Measurement:
    """One loader in its steady state."""
    kind, _, count = case_name.partition("-")
    if kind == "work":
        spec = Spec(CostlyTensors(COST_S), collate_fn=as_it_is, num_workers=int(count))
        check_all = check_spot = check_number
    else:
        case = READY if kind == "ready" else TENSORS[case_name]
        pool_of(case)
        workers = int(count) if kind == "ready" else 1
        spec = Spec(
            PoolDataset(case), collate_fn=as_it_is, num_workers=workers, max_nbytes=case.nbytes
        )
        check_all, check_spot = partial(compare_all, case), SpotCheck(case)
    if subject == "spdl-iterate" and spec.num_workers > 1:
        raise CannotDoError("it has one process")
    open_loader = partial(PEERS[subject], spec)
    return timed_passes(open_loader, None, effort, check_all, check_spot, spec.num_workers)


def _prepare(case_name: str) -> None:
    if not case_name.startswith("work"):
        pool_of(TENSORS.get(case_name, READY))


def findings(cases: Mapping[str, Rows]) -> list[str]:
    """What a tensor more costs, and what workers more give."""
    sentences = []
    for subject, title in SUBJECTS.items():
        found = [name for name in TENSORS if subject in cases[name]]
        if len(found) > 1:
            counts = [len(TENSORS[name].specs) for name in found]
            slopes = []
            for metric in ("wall_us", "trainer_cpu_us"):
                medians = [cases[name][subject][metric].median for name in found]
                slopes.append(number(float(np.polyfit(counts, medians, 1)[0])))
            sentences.append(f"{title}: {slopes[0]} us a tensor, {slopes[1]} us of it trainer CPU")
        for kind in ("ready", "work"):
            rates = {n: _rate(cases[f"{kind}-{n}"], subject) for n in PRODUCERS}
            if rates[1]:
                gains = ", ".join(
                    f"{n}: {rate / rates[1]:.2f}x" for n, rate in rates.items() if rate
                )
                sentences.append(f"{title}, {kind}, rate by workers: {gains}")
    return sentences


def _rate(rows: Rows, subject: str) -> float:
    return 1 / rows[subject]["wall_us"].median if subject in rows else 0.0


NOTES = f"""\
Microbatches of 1 to 500 tensors of 1 KiB through one worker: the slope is what a tensor costs. Then
1 to 8 workers, of a dataset that is ready (1 MiB) and of one that computes for
{1e3 * COST_S:.0f} ms of CPU. What computes grows until the cores are busy; what is ready is
bound by the trainer's own share and by memory bandwidth, and more workers than cores take turns."""

QUESTION = Question(
    name="scaling",
    title="What do more tensors cost, and what do more workers give?",
    cases=CASES,
    subjects=SUBJECTS,
    measure=measure,
    prepare=_prepare,
    columns=(
        Column("wall us", "wall_us"),
        Column("microbatches/s", style=per_second("wall_us")),
        *CPU_AND_WAIT,
    ),
    plots=(
        Plot(
            "wall time of a microbatch, us, by its tensors of 1 KiB",
            "wall_us",
            x={name: float(len(case.specs)) for name, case in TENSORS.items()},
            x_title="tensors",
        ),
    ),
    findings=findings,
    notes=NOTES,
)
