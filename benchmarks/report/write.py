"""Writes docs/benchmarks.md and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.environment import ROOT
from benchmarks.report.page import PLOTS, page, plot_name
from benchmarks.report.plots import draw
from benchmarks.report.summary import Results, Summary

PAGE = ROOT / "docs" / "benchmarks.md"


def write_page(results: Results, summaries: Sequence[Summary], source: Path) -> None:
    """Write the page of the results that are stored in ``source``, and draw what it shows."""
    where = source.resolve().relative_to(ROOT).as_posix()
    PAGE.write_text(page(results, summaries, where))
    folder = PAGE.parent / PLOTS
    folder.mkdir(exist_ok=True)
    for summary in summaries:
        for number, plot in enumerate(summary.question.plots):
            draw(plot, summary, folder / plot_name(summary.question.name, number))
