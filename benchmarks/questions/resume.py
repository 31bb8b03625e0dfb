"""Question 7: how long until a run that was at microbatch k goes on there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from benchmarks.harness.cells import number, scaled
from benchmarks.harness.question import (
    Bar,
    CannotDoError,
    Column,
    Effort,
    Measurement,
    Plot,
    Question,
)
from benchmarks.harness.spread import Rows
from benchmarks.harness.stream import OpenLoader
from benchmarks.peers import PEERS, TITLES, Spec
from benchmarks.sources.costly import CostlyItems, FreeLists, check_number
from benchmarks.sources.ready import as_it_is

COST_S = 20e-6
_BUDGET_S = 8.0
"""Repeats end when they have taken so long: replaying takes its time."""

POSITIONS = {"10": 10, "1000": 1_000, "100000": 100_000}


@dataclass(frozen=True)
class Way:
    """How a loader's position is saved and found again.

    Attributes:
        peer: In `PEERS`.
        save: The state after the items taken, given the loader and its iterator.
        begin: The iterator that goes on from a state, given the loader; k tells how far it was.
        saved: The dataset of the run that saves its state: the same numbers at the same places, for
            less, since nobody times how it gets there. Ours refuses the state of another class.
    """

    peer: str
    save: Callable[[Any, Iterator[Any]], Any]
    begin: Callable[[Any, Any, int], Iterator[Any]]
    saved: Dataset[Any] = field(default_factory=FreeLists)


def _loaded(loader: Any, state: Any, _: int) -> Iterator[Any]:
    loader.load_state_dict(state)
    return iter(loader)


def _skipped(loader: Iterable[Any], _: Any, k: int) -> Iterator[Any]:
    items = iter(loader)
    for _ in range(k):
        next(items)
    return items


def _set(loader: Iterable[Any], state: Any, _: int) -> Iterator[Any]:
    items: Any = iter(loader)
    items.set_state(state)
    return items  # type: ignore[no-any-return]


def _of_loader(loader: Any, _: Iterator[Any]) -> Any:
    return loader.state_dict()


def _of_iterator(_: Any, items: Any) -> Any:
    return items.get_state()


def _nothing(*_: Any) -> None:
    return None


WAYS = {
    "dataloader": Way("dataloader", _nothing, _skipped),
    "stateful": Way("stateful", _of_loader, _loaded),
    "grain": Way("grain", _of_iterator, _set),
    "fkat": Way("fkat", _of_loader, _loaded, CostlyItems(0.0)),
}

OWN_FORMATS = {"streaming": "MosaicML Streaming", "litdata": "LitData"}

SUBJECTS = {
    "dataloader": f"{TITLES['dataloader']}, skipping",
    "stateful": TITLES["stateful"],
    "grain": TITLES["grain"],
    **OWN_FORMATS,
    "fkat": TITLES["fkat"],
}


def _state_at(k: int, way: Way, spec: Spec) -> Any:
    """The state of a run that has taken k microbatches, which cost less than those to come."""
    if way.save is _nothing:
        return None
    with PEERS[way.peer](replace(spec, dataset=way.saved)) as loader:
        items = iter(loader)
        for index in range(k):
            check_number(index, next(items))
        return way.save(loader, items)


def _seconds_to_go_on(way: Way, state: Any, k: int, open_loader: OpenLoader) -> float:
    """From building the loader to microbatch k in hand; two more are looked at."""
    start = time.perf_counter()
    with open_loader() as loader:
        items = iter(loader) if k == 0 else way.begin(loader, state, k)
        item = next(items)
        seconds = time.perf_counter() - start
        for index in range(k, k + 3):
            check_number(index, item)
            item = next(items)
        return seconds


def measure(case: str, subject: str, effort: Effort) -> Measurement:
    """Starts from nothing, and starts from the state at k."""
    if subject in OWN_FORMATS:
        raise CannotDoError("reads its own format only; see the question about tokens")
    k = max(10, POSITIONS[case] // effort.shorten)
    way = WAYS[subject]
    spec = Spec(CostlyItems(COST_S), collate_fn=as_it_is, start_method=_start_method(subject))
    open_loader: Callable[[], AbstractContextManager[Iterable[Any]]]
    open_loader = partial(PEERS[way.peer], spec)
    state = _state_at(k, way, spec)
    fresh: list[float] = []
    resumed: list[float] = []
    end = time.perf_counter() + _BUDGET_S
    while len(resumed) < effort.repeats and (not resumed or time.perf_counter() < end):
        fresh.append(_seconds_to_go_on(way, state, 0, open_loader))
        resumed.append(_seconds_to_go_on(way, state, k, open_loader))
    return {"fresh_s": fresh, "resumed_s": resumed}


def _start_method(subject: str) -> str | None:
    return None if subject == "grain" else "fork"


def _slowdown(rows: Rows) -> float:
    return rows["fkat"]["resumed_s"].median / rows["fkat"]["fresh_s"].median


def findings(cases: Mapping[str, Rows]) -> list[str]:
    """How much a position costs, a microbatch of it."""
    first, last = POSITIONS["10"], POSITIONS["100000"]
    sentences = []
    for subject, title in SUBJECTS.items():
        if all(subject in cases[case] for case in ("10", "100000")):
            seconds = [cases[case][subject]["resumed_s"].median for case in ("10", "100000")]
            cost_us = 1e6 * (seconds[1] - seconds[0]) / (last - first)
            sentences.append(f"{title}: {number(max(0.0, cost_us))} us for each microbatch before")
    return sentences


NOTES = f"""\
From building the loader with a saved state to microbatch k in hand, beside a start from nothing.
Each microbatch costs {1e6 * COST_S:.0f} us of CPU to make, so that one that makes all of them again
shows it; one worker, started by fork (Grain always spawns). `DataLoader` has no state: its rows
iterate to k. The state is one that a run saved after taking k microbatches, of the same numbers at
no cost; microbatch k and the two after it are compared with what they have to be."""

QUESTION = Question(
    name="resume",
    title="How long until a run goes on at microbatch k?",
    cases={case: f"k = {k:,}" for case, k in POSITIONS.items()},
    subjects=SUBJECTS,
    measure=measure,
    columns=(
        Column("from nothing, ms", style=scaled("fresh_s", 1e3)),
        Column("from k, ms", style=scaled("resumed_s", 1e3)),
    ),
    bars=tuple(
        Bar(case, "time to go on, of a start from nothing", "x", 1.5, False, _slowdown)
        for case in POSITIONS
    ),
    plots=(
        Plot(
            "time until microbatch k, s",
            "resumed_s",
            x={case: float(k) for case, k in POSITIONS.items()},
            x_title="k",
        ),
    ),
    findings=findings,
    notes=NOTES,
)
