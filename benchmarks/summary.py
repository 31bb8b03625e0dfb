"""Medians and spread of the stored passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

CLOCKS = ("wall_us", "trainer_cpu_us", "producer_cpu_us")


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of the repeats, in microseconds per microbatch."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Summarise at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One loader on one case."""

    wall_us: Spread
    trainer_cpu_us: Spread
    producer_cpu_us: Spread


Summary = dict[str, dict[str, Row]]
"""case name -> subject name -> row."""


def summarise(results: Mapping[str, Any]) -> Summary:
    """Pool the timed passes of all rounds, by case and subject."""
    passes: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for run in results["runs"]:
        passes[run["case"], run["subject"]].extend(run["passes"])
    summary: Summary = defaultdict(dict)
    for (case, subject), each in passes.items():
        wall_us, trainer_cpu_us, producer_cpu_us = (
            Spread.of([one[clock] for one in each]) for clock in CLOCKS
        )
        summary[case][subject] = Row(wall_us, trainer_cpu_us, producer_cpu_us)
    return dict(summary)
