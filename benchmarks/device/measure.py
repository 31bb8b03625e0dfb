"""One measurement of `benchmarks.device`, in this fresh process; prints one line of JSON.

``python -m benchmarks.device.measure calibrate|copy|step|trainer ...``
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from functools import partial
from typing import Any

import torch

from benchmarks.device.cases import (
    MANY_SMALL,
    STEPS,
    PoolOnDevice,
    SpotCheck,
    step_case,
)
from benchmarks.device.clocks import Matmuls, copy_ms, elapsed_ms, timing_event
from benchmarks.device.copies import measure_copies
from benchmarks.device.subjects import SUBJECTS, Loader, close, inner_of
from benchmarks.harness.question import WrongPayloadError
from benchmarks.sources.ready import POOL_SIZE, in_process_loader, pool_of
from fkat.data import ShmDataLoader

MAX_LAG = 2
"""Steps that the host may be ahead of the GPU, as in a loop that logs its loss now and then."""

NUM_READY = 32
"""Microbatches taken in a row while the trainer's thread is timed; twice as many are ready."""


def calibrate(nbytes: int, device: torch.device) -> dict[str, Any]:
    """How long the best pinned copy of a step's microbatch takes, and one matrix product."""
    products = Matmuls(device)
    return {"copy_ms": copy_ms(nbytes, device), "matmul_ms": elapsed_ms(lambda: products(20)) / 20}


def compare_all(loader: Loader, pool: PoolOnDevice, count: int) -> None:
    """Run one pass and compare every byte of it."""
    arrived = 0
    for number, microbatch in enumerate(loader):
        if int(microbatch["number"]) != number:
            raise WrongPayloadError(f"microbatch {int(microbatch['number'])} instead of {number}")
        for key, expected in pool.entries[number % POOL_SIZE].items():
            if not torch.equal(microbatch[key], expected):
                raise WrongPayloadError(f"microbatch {number}: {key!r} differs from what was sent")
        arrived += 1
    if arrived != count:
        raise WrongPayloadError(f"{arrived} microbatches arrived, {count} were sent")


def timed_pass(loader: Loader, check: SpotCheck, products: Matmuls, num_matmuls: int) -> float:
    """Milliseconds a step, from the moment that item ``max(8, 10 %)`` is in hand."""
    events: list[torch.cuda.Event] = []
    for number, microbatch in enumerate(loader):
        check(number, microbatch)
        products(num_matmuls)
        events.append(timing_event())
        events[number].record()
        if number >= MAX_LAG:
            events[number - MAX_LAG].synchronize()
    first = max(8, len(events) // 10)
    events[-1].synchronize()
    return float(events[first].elapsed_time(events[-1])) / (len(events) - 1 - first)


def measure_step(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Step time of one loader, and what device memory it took."""
    case, count = step_case(options.nbytes), options.count
    pool_of(case)  # before the loader forks: the workers start with warm memory
    loader = SUBJECTS[options.subject](case, count, STEPS[options.step].num_workers, device)
    pool, products = PoolOnDevice(case, device), Matmuls(device)
    try:
        compare_all(loader, pool, count)
        check = SpotCheck(pool)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        torch.cuda.reset_peak_memory_stats()
        gc.collect()
        gc.freeze()
        step_ms = [
            timed_pass(loader, check, products, options.matmuls) for _ in range(options.passes)
        ]
        if check.num_wrong() > 0:
            raise WrongPayloadError(f"{check.num_wrong()} elements differ from what was sent")
    finally:
        close(inner_of(loader))
    return {
        "step_ms": step_ms,
        "peak_allocated_nbytes": torch.cuda.max_memory_allocated() - before[0],
        "peak_reserved_nbytes": torch.cuda.max_memory_reserved() - before[1],
    }


def measure_trainer(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Microseconds of ``next()`` when everything is ready: wall, and CPU of this thread."""
    num_blocks = options.passes * 20
    count = (num_blocks + 10) * NUM_READY
    pool_of(MANY_SMALL)
    factory = partial(in_process_loader, MANY_SMALL, count)
    loader: Any = ShmDataLoader(0, factory, 2 * NUM_READY, device=device)
    wall_us, cpu_us = [], []
    try:
        for block in range(num_blocks + 10):
            torch.cuda.synchronize()
            time.sleep(0.05)  # the producer fills the ring
            wall, cpu = time.perf_counter(), time.thread_time()
            for _ in range(NUM_READY):
                next(loader)
            taken = time.perf_counter() - wall, time.thread_time() - cpu
            if block >= 10:
                wall_us.append(1e6 * taken[0] / NUM_READY)
                cpu_us.append(1e6 * taken[1] / NUM_READY)
        stall_us = 1e6 * loader.stats().stall_s / count
    finally:
        loader.teardown()
    return {"wall_us": wall_us, "cpu_us": cpu_us, "stall_us": stall_us}


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["calibrate", "copy", "step", "trainer"])
    parser.add_argument("--nbytes", type=int, default=64 << 20, help="of a microbatch")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--count", type=int, default=120, help="steps of a pass")
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--subject", choices=SUBJECTS)
    parser.add_argument("--matmuls", type=int, help="matrix products of a step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda", torch.cuda.current_device())
    result = {
        "calibrate": lambda: calibrate(options.nbytes, device),
        "copy": lambda: measure_copies(options.nbytes, options.passes, device),
        "step": lambda: measure_step(options, device),
        "trainer": lambda: measure_trainer(options, device),
    }[options.kind]()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
