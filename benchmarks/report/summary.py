"""Stored results, summarised and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.question import Bar, Question
from benchmarks.harness.spread import Rows, Spread

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """A bar and what was measured; None where a row that it needs is missing."""

    bar: Bar
    figure: float | None

    @property
    def reached(self) -> bool:
        """Whether the bar was measured and reached."""
        return self.figure is not None and self.bar.reached(self.figure)


@dataclass(frozen=True)
class Summary:
    """What was found out about one question.

    Attributes:
        question: That was asked.
        rows: Case -> subject -> metric -> spread; in the order of the question.
        reasons: Case -> subject -> why it was not measured, or what else there is to say.
        seconds: That it took.
    """

    question: Question
    rows: Mapping[str, Rows]
    reasons: Mapping[str, Mapping[str, str]]
    seconds: float

    def findings(self) -> list[str]:
        """What follows from several cases together."""
        return [] if self.question.findings is None else list(self.question.findings(self.rows))

    def verdicts(self) -> list[Verdict]:
        """Every bar of the cases that were asked, held against the medians."""
        asked = [bar for bar in self.question.bars if self.rows[bar.case] or self.reasons[bar.case]]
        return [Verdict(bar, _figure(bar, self.rows[bar.case])) for bar in asked]


def _figure(bar: Bar, rows: Rows) -> float | None:
    try:
        return bar.figure(rows)
    except KeyError:
        return None


def summarise(question: Question, results: Results) -> Summary:
    """The part of the results that is about this question."""
    stored = results["questions"][question.name]
    rows: dict[str, dict[str, dict[str, Spread]]] = {case: {} for case in question.cases}
    reasons: dict[str, dict[str, str]] = {case: {} for case in question.cases}
    for outcome in stored["outcomes"]:
        case, subject = outcome["case"], outcome["subject"]
        if outcome["kind"] == "measured":
            metrics = outcome["metrics"].items()
            rows[case][subject] = {metric: Spread.of(values) for metric, values in metrics}
        if outcome["reason"]:
            reasons[case][subject] = f"{outcome['kind']}: {outcome['reason']}"
    return Summary(question, rows, reasons, stored["seconds"])
