"""A question to the loaders: its cases, its subjects, how it is measured, what is to be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.spread import Rows

Measurement = dict[str, list[float]]
"""Metric, its unit at the end of the name (``wall_us``, ``peak_mib``) -> one value per repeat."""


class CannotDoError(Exception):
    """A subject cannot do a case; the text is the reason, and stands in the table."""


class WrongPayloadError(Exception):
    """A microbatch arrived with other contents than were sent: the timing means nothing."""


@dataclass(frozen=True)
class Effort:
    """How long a configuration is measured.

    Attributes:
        repeats: Timed stretches, after the warm-up.
        shorten: Everything is so many times shorter; figures of such a run are noise.
    """

    repeats: int = 5
    shorten: int = 1


@dataclass(frozen=True)
class Column:
    """One column of a case's table.

    Attributes:
        title: With the unit, if the style does not show one.
        metric: What is shown; without it, ``style`` is a function.
        style: ``"spread"`` (median [low-high]), ``"number"`` (the median), or what makes the text
            of a subject's cell from the case's rows (empty: nothing to say).
    """

    title: str
    metric: str = ""
    style: str | Callable[[Rows, str], str] = "spread"


@dataclass(frozen=True)
class Bar:
    """One promise about one case: a figure from the medians, and its limit.

    ``figure`` may look up rows that are missing: a ``KeyError`` means "not measured", as None does.
    """

    case: str
    what: str
    unit: str
    limit: float
    at_least: bool
    figure: Callable[[Rows], float | None]

    def reached(self, figure: float) -> bool:
        """Whether ``figure`` keeps the promise."""
        return figure >= self.limit if self.at_least else figure <= self.limit


@dataclass(frozen=True)
class Plot:
    """The picture of a question: bars grouped by case, or lines over a number.

    Attributes:
        title: What is shown, with the unit.
        metric: Whose medians are drawn.
        x: Case -> place on a logarithmic axis, which makes it lines; None for bars by case.
        x_title: Of that axis.
        cases: Those that are drawn; None for all, or those of ``x``.
        subjects: Those that are drawn; None for all.
    """

    title: str
    metric: str
    x: Mapping[str, float] | None = None
    x_title: str = ""
    cases: Sequence[str] | None = None
    subjects: Sequence[str] | None = None


@dataclass(frozen=True)
class Question:
    """A question and everything that the harness and the report need to know of it.

    Attributes:
        name: Of its module in `benchmarks.questions`, and on the command line.
        title: The question in words.
        cases: Name -> title, in the order of the tables.
        subjects: Name -> title, in the order of the rows.
        measure: (case, subject, effort), called in a fresh process. Checks contents itself. Raises
            `CannotDoError`, or ModuleNotFoundError for a subject that is not installed.
        prepare: (case), called once, in the process that those of the case's subjects are forked
            from: makes data that `measure` finds in a cache, imports what every subject needs.
            Starts no thread, and imports no loader: its import is part of its start.
        twice: Subjects between which few per cent count: measured before the others and behind
            them, since a machine is faster in one minute than in the next.
        columns: Of every case's table.
        bars: What is to be reached.
        plots: Pictures.
        findings: Sentences that follow from several cases together, given the rows of every case;
            a case that was not measured has none.
        notes: Markdown for the page: the method, where we lose, and why.
    """

    name: str
    title: str
    cases: Mapping[str, str]
    subjects: Mapping[str, str]
    measure: Callable[[str, str, Effort], Measurement]
    columns: Sequence[Column]
    prepare: Callable[[str], object] = lambda case: None
    twice: Sequence[str] = ()
    bars: Sequence[Bar] = ()
    plots: Sequence[Plot] = ()
    findings: Callable[[Mapping[str, Rows]], Sequence[str]] | None = None
    notes: str = ""
