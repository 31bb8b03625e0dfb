"""Styles of columns: texts of figures, and of figures in relation to another subject's."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.question import Column
from benchmarks.harness.spread import Rows, Spread

Style = Callable[[Rows, str], str]


def number(value: float) -> str:
    """Three significant digits where they matter, thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def spread(value: Spread) -> str:
    """``median [low-high]``."""
    return f"{number(value.median)} [{number(value.low)}-{number(value.high)}]"


def text(column: Column, rows: Rows, subject: str) -> str:
    """A cell; empty where the row has no such figure."""
    try:
        if callable(column.style):
            return column.style(rows, subject)
        value = rows[subject][column.metric]
    except KeyError:
        return ""
    return spread(value) if column.style == "spread" else number(value.median)


def times_of(metric: str, base: str) -> Style:
    """How many times the rate of ``base``, by a time per item."""

    def style(rows: Rows, subject: str) -> str:
        return f"{rows[base][metric].median / rows[subject][metric].median:.2f}x"

    return style


def share_of(metric: str, limit: str) -> Style:
    """The rate in percent of that of ``limit``, by a time per item."""

    def style(rows: Rows, subject: str) -> str:
        return f"{rows[limit][metric].median / rows[subject][metric].median:.0%}"

    return style


def per_second(metric: str, items: float = 1) -> Style:
    """Items a second, by the time in microseconds of so many."""

    def style(rows: Rows, subject: str) -> str:
        return number(1e6 * items / rows[subject][metric].median)

    return style


def scaled(metric: str, factor: float) -> Style:
    """The median in another unit."""

    def style(rows: Rows, subject: str) -> str:
        return number(factor * rows[subject][metric].median)

    return style
