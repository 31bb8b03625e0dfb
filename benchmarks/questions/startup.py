"""Question 6: how long until the first microbatch, of a run, of an epoch, of a validation pass."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from benchmarks.harness.cells import scaled
from benchmarks.harness.question import CannotDoError, Column, Effort, Measurement, Plot, Question
from benchmarks.harness.stream import OpenLoader
from benchmarks.peers import PEERS, TITLES, Spec
from benchmarks.sources.payload import compare_all
from benchmarks.sources.ready import TWENTY, PoolDataset, as_it_is, pool_of

_EPOCH_LENGTH = 24
_MIDDLE = 12
_VALIDATION_LENGTH = 10
_MODEL_S = {"fork": 0.5, "spawn": 3.0, "forkserver": 3.0}
"""What else a run does before its first step: load a model, open a device. Longer than any start
by that method takes."""

SUBJECTS = {
    "dataloader": TITLES["dataloader"],
    "spdl-iterate": TITLES["spdl-iterate"],
    "fkat": TITLES["fkat"],
    "fkat-prepared": f"{TITLES['fkat']}, prepare() before",
}

METRICS = {
    "first_s": "the run",
    "epoch_2_s": "epoch 2",
    "validation_s": "first validation",
    "validation_2_s": "second validation",
    "training_on_s": "training after it",
}
"""What begins, and is timed from asking to the first microbatch in hand."""


def _next(number: int, items: Iterator[Any]) -> None:
    """Take a microbatch that has to be number ``number``, and let go of it."""
    compare_all(TWENTY, number, next(items))


def _begin(loader: Iterable[Any]) -> tuple[Iterator[Any], float]:
    """An iterator of which the first microbatch has been taken, and the time until then."""
    start = time.perf_counter()
    items = iter(loader)
    item = next(items)
    seconds = time.perf_counter() - start
    compare_all(TWENTY, 0, item)
    return items, seconds


def _advance(items: Iterator[Any], numbers: Iterable[int]) -> float:
    """Take these microbatches; the time of the first."""
    start, first_s = time.perf_counter(), 0.0
    for number in numbers:
        _next(number, items)
        first_s = first_s or time.perf_counter() - start
    return first_s


def _finish(items: Iterator[Any], length: int, taken: int) -> None:
    """Take the rest of an epoch and see that it ends."""
    _advance(items, range(taken, length))
    if next(items, None) is not None:
        raise CannotDoError("its epoch does not end where it should")


def _one_run(
    open_training: OpenLoader, open_validation: OpenLoader, prepare_s: float
) -> list[float]:
    """Two epochs, the second interrupted by two validation passes; in the order of `METRICS`."""
    start = time.perf_counter()
    with open_training() as training, open_validation() as validation:
        if prepare_s:
            for loader in (training, validation):
                loader.prepare()  # type: ignore[attr-defined]
            time.sleep(prepare_s)
        opened_s = 0.0 if prepare_s else time.perf_counter() - start
        items, first_s = _begin(training)
        _finish(items, _EPOCH_LENGTH, 1)
        items, epoch_2_s = _begin(training)
        _advance(items, range(1, _MIDDLE))
        passes = []
        for _ in range(2):
            validated, seconds = _begin(validation)
            _finish(validated, _VALIDATION_LENGTH, 1)
            passes.append(seconds)
        training_on_s = _advance(items, range(_MIDDLE, _EPOCH_LENGTH))
        return [opened_s + first_s, epoch_2_s, *passes, training_on_s]


def measure(start_method: str, subject: str, effort: Effort) -> Measurement:
    """Whole little runs, one after the other."""
    from fkat.data import ShmDataLoader

    pool_of(TWENTY)
    is_prepared = subject == "fkat-prepared"
    if is_prepared and not hasattr(ShmDataLoader, "prepare"):
        raise CannotDoError("this version has no prepare()")

    def opener(length: int) -> OpenLoader:
        spec = Spec(
            PoolDataset(TWENTY, length),
            collate_fn=as_it_is,
            max_nbytes=TWENTY.nbytes,
            start_method=start_method,
        )
        return partial(PEERS["fkat" if is_prepared else subject], spec)

    # An interpreter that starts afresh imports torch for seconds: fewer suffice.
    repeats = effort.repeats if start_method == "fork" else min(effort.repeats, 3)
    prepare_s = _MODEL_S[start_method] if is_prepared else 0.0
    openers = opener(_EPOCH_LENGTH), opener(_VALIDATION_LENGTH)
    runs = [_one_run(*openers, prepare_s) for _ in range(repeats)]
    return {
        metric: list(values)
        for metric, values in zip(METRICS, zip(*runs, strict=True), strict=True)
    }


NOTES = f"""\
From asking for it to the first microbatch in hand (20 tensors of 16 KiB, ready in memory), in
milliseconds: of the run, building the loader included; of the second epoch; of a validation pass in
the middle of that epoch, with a loader of its own, for the first and the second time; and of the
training microbatch after it. One worker each. With `spawn` and `forkserver` the worker's
interpreter imports torch, which is nearly all of its start: `prepare()` starts the producers while
the run does something else, here for {_MODEL_S["spawn"]:.0f} s (with `fork`,
{_MODEL_S["fork"]} s)."""

QUESTION = Question(
    name="startup",
    title="How long until the first microbatch?",
    cases={method: f"start method {method}" for method in ("fork", "spawn", "forkserver")},
    subjects=SUBJECTS,
    measure=measure,
    prepare=lambda case: pool_of(TWENTY),
    columns=tuple(
        Column(f"{title}, ms", style=scaled(metric, 1e3)) for metric, title in METRICS.items()
    ),
    plots=(Plot("time to the first microbatch of a run, s", "first_s"),),
    notes=NOTES,
)
