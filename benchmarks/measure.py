"""Measure one loader on one case, in this fresh process; print one line of JSON.

``python -m benchmarks.measure CASE SUBJECT --passes 2 --prefetches 4``

The first pass warms everything up and compares every byte. Each further pass is timed from item
``max(8, 10 %)``, when the queue is in its steady state, to the last.
"""

from __future__ import annotations

import argparse
import gc
import json
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from benchmarks.cases import CASES, Case, pool_of
from benchmarks.clocks import Reading, child_pids, read_clocks
from benchmarks.payload import SpotCheck, WrongPayloadError, compare_all
from benchmarks.subjects import SLOW, SUBJECTS, Loader, close


@dataclass(frozen=True)
class Pass:
    """One timed pass, in microseconds per microbatch."""

    wall_us: float
    trainer_cpu_us: float
    producer_cpu_us: float


def _per_microbatch(start: Reading, end: Reading, num_microbatches: int) -> Pass:
    scale = 1e6 / num_microbatches
    return Pass(
        wall_us=(end.wall_s - start.wall_s) * scale,
        trainer_cpu_us=(end.trainer_cpu_s - start.trainer_cpu_s) * scale,
        producer_cpu_us=(end.producer_cpu_s - start.producer_cpu_s) * scale,
    )


def warm_up(case: Case, loader: Loader) -> None:
    """Run one pass and compare every byte of it."""
    count = 0
    for index, item in enumerate(loader):
        compare_all(case, index, item)
        count += 1
    if count != case.num_items:
        raise WrongPayloadError(f"{count} microbatches arrived, {case.num_items} were sent")


def timed_pass(case: Case, loader: Loader, check: SpotCheck) -> Pass:
    """Run one pass, timed from the moment that item ``max(8, 10 %)`` is in hand."""
    first = max(8, case.num_items // 10)
    pids = child_pids()
    items = enumerate(loader)
    for index, item in items:
        check(index, item)
        if index == first:
            break
    start = read_clocks(pids)
    for index, item in items:
        check(index, item)
    return _per_microbatch(start, read_clocks(pids), index - first)


def measure(case: Case, subject: str, num_passes: int, num_prefetches: int) -> dict[str, Any]:
    """Warm up, then time ``num_passes`` passes; what came out, ready for JSON."""
    pool_of(case)  # before the loader forks: the producer starts with warm memory
    loader = SUBJECTS[subject](case, num_prefetches)
    try:
        warm_up(case, loader)
        check = SpotCheck(case)
        gc.collect()
        gc.freeze()
        passes = [timed_pass(case, loader, check) for _ in range(num_passes)]
        stats = loader.stats() if hasattr(loader, "stats") else None
    finally:
        close(loader)
    return {
        "case": case.name,
        "subject": subject,
        "passes": [asdict(each) for each in passes],
        "stats": asdict(stats) if stats is not None else None,
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--passes", type=int, default=2, help="timed passes after the warm-up")
    parser.add_argument("--prefetches", type=int, default=4, help="microbatches prefetched")
    parser.add_argument("--shorten", type=int, default=1, help="divide the length of a pass")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # torchdata 0.11 calls a function that torch has deprecated since.
    warnings.filterwarnings("ignore", message=".*set_vital.*")
    case = CASES[options.case]
    num_items = case.num_items if options.subject in SLOW else case.num_items_if_fast
    case = replace(case, num_items=max(16, num_items // options.shorten))
    print(json.dumps(measure(case, options.subject, options.passes, options.prefetches)))


if __name__ == "__main__":
    main()
