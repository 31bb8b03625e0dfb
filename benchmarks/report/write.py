"""Writes docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.environment import ROOT
from benchmarks.report.page import page
from benchmarks.report.summary import Results, Summary

PAGE = ROOT / "docs" / "benchmarks.md"


def write_page(results: Results, summaries: Sequence[Summary], source: Path) -> None:
    """Write the page of the results that are stored in ``source``."""
    where = source.resolve().relative_to(ROOT).as_posix()
    PAGE.write_text(page(results, summaries, where))
