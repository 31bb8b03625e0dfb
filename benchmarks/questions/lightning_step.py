"""Question 5: what a loader costs a training step of 10 ms, in Lightning's own loop."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import torch

from benchmarks.harness.clocks import Stopwatch
from benchmarks.harness.question import Bar, Column, Effort, Measurement, Plot, Question
from benchmarks.harness.spread import Rows
from benchmarks.harness.stream import percentile_99
from benchmarks.peers import PEERS, TITLES, Spec
from benchmarks.peers.fkat import make_source
from benchmarks.questions import floors
from benchmarks.sources.payload import SpotCheck, compare_all
from benchmarks.sources.ready import PoolDataset, as_it_is, equal_tensors, pool_of

STEP_S = 0.010
CASE = equal_tensors("1 tensor of 8 MiB", 1, 8 << 20)
NUM_WARM_UP_STEPS = 20
NUM_STEPS = 60
"""Of a repeat."""

ALONE = "alone"
SUBJECTS = {
    ALONE: "no loader: the microbatch is there",
    "beside": "the same, another process copies as much",
    **{name: TITLES[name] for name in ("dataloader", "stateful", "spdl-iterate")},
    "fkat": "fkat ShmDataLoader in a DataModule",
}


FLOORS = {ALONE: floors.resident, "beside": floors.copied_beside}


class Steps:
    """What the callback and the profiler of a fit note down, step by step."""

    def __init__(self, effort: Effort) -> None:
        self.num_steps = max(5, NUM_STEPS // effort.shorten)
        self.num_repeats = effort.repeats
        self.num_all = NUM_WARM_UP_STEPS + self.num_steps * self.num_repeats
        self.wait_s: list[float] = []
        self._step_s: list[float] = []
        self._repeats: list[dict[str, float]] = []
        self._watch: Stopwatch | None = None
        self._begin_s = 0.0

    def ended(self, num_done: int) -> None:
        """A step has ended; after a stretch of them, its figures are worked out."""
        now = time.perf_counter()
        self._step_s.append(now - self._begin_s)
        if num_done >= NUM_WARM_UP_STEPS and (num_done - NUM_WARM_UP_STEPS) % self.num_steps == 0:
            if self._watch is not None:
                self._repeats.append(self._figures(self._watch))
            self.wait_s, self._step_s = [], []
            self._watch = Stopwatch()
            now = time.perf_counter()
        self._begin_s = now

    def _figures(self, watch: Stopwatch) -> dict[str, float]:
        taken = watch.stop()
        return {
            "step_ms": 1e3 * taken.wall_s / self.num_steps,
            "p99_step_ms": 1e3 * percentile_99(self._step_s),
            "stalled_percent": 100 * sum(self.wait_s) / taken.wall_s,
            "trainer_cpu_ms": 1e3 * taken.trainer_cpu_s / self.num_steps,
            "workers_cpu_ms": 1e3 * taken.workers_cpu_s / self.num_steps,
        }

    def measurement(self) -> Measurement:
        """The figures of all repeats."""
        return {name: [each[name] for each in self._repeats] for name in self._repeats[0]}


def _fit(train: Any, steps: Steps, is_resident: bool) -> None:
    import lightning as L  # noqa: N812 (the name that Lightning's own documentation uses)
    from lightning.pytorch.profilers import Profiler

    check = SpotCheck(CASE)

    class Model(L.LightningModule):
        """A step that keeps a device busy for 10 ms and the CPU free, as a GPU does."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
            end_s = time.perf_counter() + STEP_S
            number = 0 if is_resident else index
            if index < NUM_WARM_UP_STEPS:
                compare_all(CASE, number, batch)
            else:
                check(number, batch)
            time.sleep(max(0.0, end_s - time.perf_counter()))
            return self.weight.square().sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    class Clock(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            steps.ended(args[-1] + 1)

    class Waits(Profiler):
        """Times the loop's call of ``next()``."""

        def __init__(self) -> None:
            super().__init__()
            self._asked_s = 0.0

        def start(self, action_name: str) -> None:
            if action_name.endswith("train_dataloader_next"):
                self._asked_s = time.perf_counter()

        def stop(self, action_name: str) -> None:
            if action_name.endswith("train_dataloader_next"):
                steps.wait_s.append(time.perf_counter() - self._asked_s)

    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=steps.num_all,
            callbacks=[Clock()],
            profiler=Waits(),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(Model(), train)


@contextmanager
def _data_module(spec: Spec) -> Iterator[Any]:
    """Ours, as its documentation has it: the DataModule builds the loader and ends it."""
    from fkat.data import ShmDataLoader
    from fkat.data.data_module import DataModule

    factory = partial(ShmDataLoader, 0, partial(make_source, spec), spec.num_prefetches)
    yield DataModule({"train": factory})


def _opened(subject: str, spec: Spec) -> AbstractContextManager[Any]:
    if subject in FLOORS:
        return FLOORS[subject](CASE)
    return _data_module(spec) if subject == "fkat" else PEERS[subject](spec)


def measure(case: str, subject: str, effort: Effort) -> Measurement:
    """One fit: steps to warm up, then a stretch of steps for each repeat."""
    import logging

    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    pool_of(CASE)  # before the loader forks: the producer starts with warm memory
    spec = Spec(PoolDataset(CASE), collate_fn=as_it_is, max_nbytes=CASE.nbytes)
    steps = Steps(effort)
    with _opened(subject, spec) as train:
        _fit(train, steps, is_resident=subject in FLOORS)
    return steps.measurement()


def _prepare(case: str) -> None:
    """The microbatches, and the import of Lightning: seconds, which no loader is to blame for."""
    pool_of(CASE)
    import_module("lightning.pytorch")


def _times_alone(rows: Rows) -> float:
    return rows["fkat"]["step_ms"].median / rows[ALONE]["step_ms"].median


NOTES = f"""\
A real `Trainer.fit` on the CPU. The training step sleeps until 10 ms after it got its microbatch: a
step on a GPU keeps the GPU busy and leaves the CPU free, which a matrix product on two cores would
not. There is an optimizer with one parameter, no logger and no progress bar. Microbatches of 8 MiB
are ready in warm memory, one worker prefetches 4. {NUM_STEPS} steps make a repeat, after
{NUM_WARM_UP_STEPS} to warm up, in which every byte is compared; later steps compare two elements.

* A step is the whole turn of the loop, Lightning's own part included; the first row says how much
  that is. In the second a process without a loader copies 8 MiB for each step, which alone makes
  the step longer: it shares the caches and the memory's bandwidth with Lightning's part.
* Stalled is the share of the time that the loop spends in `next()`, by Lightning's profiler.
* What the trainer's CPU spends for the loader, a GPU that is launched asynchronously hides as long
  as the step is longer."""

QUESTION = Question(
    name="lightning_step",
    title="How long does Lightning's training step wait for its data?",
    cases={"10ms": "a step of 10 ms, microbatches of 8 MiB"},
    subjects=SUBJECTS,
    measure=measure,
    prepare=_prepare,
    twice=(ALONE, "beside", "fkat"),
    columns=(
        Column("step ms", "step_ms"),
        Column("p99 step ms", "p99_step_ms"),
        Column("stalled %", "stalled_percent"),
        Column("trainer CPU ms", "trainer_cpu_ms", "number"),
        Column("workers CPU ms", "workers_cpu_ms", "number"),
    ),
    bars=(Bar("10ms", "step, times the step alone", "x", 1.02, False, _times_alone),),
    plots=(Plot("step, ms", "step_ms"),),
    notes=NOTES,
)
