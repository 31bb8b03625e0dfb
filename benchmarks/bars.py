"""What the loader has to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.summary import Row, Summary

Rows = dict[str, Row]


@dataclass(frozen=True)
class Bar:
    """One promise about one case: a figure from the medians, and its limit."""

    case: str
    what: str
    figure: Callable[[Rows], float]
    limit: float
    at_least: bool
    unit: str

    def reached(self, figure: float) -> bool:
        """Whether ``figure`` keeps the promise."""
        return figure >= self.limit if self.at_least else figure <= self.limit


@dataclass(frozen=True)
class Verdict:
    """A bar and what was measured; None where a row that it needs is missing."""

    bar: Bar
    figure: float | None

    @property
    def reached(self) -> bool:
        """Whether the bar was measured and reached."""
        return self.figure is not None and self.bar.reached(self.figure)


def speedup(rows: Rows) -> float:
    """How many times the DataLoader's rate."""
    return rows["dataloader"].wall_us.median / rows["fkat"].wall_us.median


def wall_us(rows: Rows) -> float:
    """Wall microseconds per microbatch."""
    return rows["fkat"].wall_us.median


def memcpy_percent(rows: Rows) -> float:
    """Bandwidth, in percent of one memcpy's."""
    return 100 * rows["memcpy"].wall_us.median / rows["fkat"].wall_us.median


def trainer_cpu_percent(rows: Rows) -> float:
    """Trainer CPU, in percent of what the DataLoader costs the trainer."""
    return 100 * rows["fkat"].trainer_cpu_us.median / rows["dataloader"].trainer_cpu_us.median


BARS = (
    Bar("a", "rate, times the DataLoader's", speedup, 100, True, "x"),
    Bar("a", "wall time per microbatch", wall_us, 80, False, "us"),
    Bar("b", "rate, times the DataLoader's", speedup, 25, True, "x"),
    Bar("c", "rate, times the DataLoader's", speedup, 20, True, "x"),
    Bar("c", "wall time per microbatch", wall_us, 35, False, "us"),
    Bar("d", "bandwidth, of one memcpy's", memcpy_percent, 85, True, "%"),
    *(
        Bar(case, "trainer CPU, of the DataLoader's", trainer_cpu_percent, 10, False, "%")
        for case in "abcd"
    ),
)


def judge(summary: Summary) -> list[Verdict]:
    """Hold every bar of the measured cases against the medians."""
    verdicts = []
    for bar in BARS:
        if bar.case not in summary:
            continue
        try:
            verdicts.append(Verdict(bar, bar.figure(summary[bar.case])))
        except KeyError:
            verdicts.append(Verdict(bar, None))
    return verdicts
