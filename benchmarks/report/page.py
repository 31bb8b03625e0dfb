"""docs/benchmarks.md: the same tables in Markdown, with the pictures and the notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.report import cells
from benchmarks.report.summary import Results, Summary

PLOTS = "plots"
"""Folder of the pictures, beside the page."""


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _question(summary: Summary) -> Iterator[str]:
    question = summary.question
    yield f"## {question.title}"
    yield question.notes
    for number, plot in enumerate(question.plots):
        yield f"![{plot.title}]({PLOTS}/{plot_name(question.name, number)})"
    if question.bars:
        yield "**What it has to reach**"
        yield _table(cells.BAR_COLUMNS, cells.bar_cells(summary))
    for case, title in cells.asked_cases(summary).items():
        rows = list(cells.case_cells(summary, case))
        if rows:
            yield f"**{title}**"
            yield _table(cells.case_columns(summary), rows)
    if summary.findings():
        yield "From these:"
        yield "\n".join(f"* {finding}" for finding in summary.findings())
    missing = list(cells.reasons(summary))
    if missing:
        yield "Not measured, or with a reservation:"
        yield "\n".join(f"* {reason}" for reason in missing)


def plot_name(question: str, number: int) -> str:
    """File name of a question's picture."""
    return f"{question}.svg" if number == 0 else f"{question}-{number + 1}.svg"


def page(results: Results, summaries: Iterable[Summary], source: str) -> str:
    """The whole page.

    Args:
        results: As stored.
        summaries: Of its questions.
        source: Where they are stored, from the root of the repository.
    """
    parts = [
        f"<!-- Generated: python -m benchmarks --page {source} -->",
        "# Benchmarks",
        "One run of `make bench`; how it is measured and how to read a table stands in"
        " [benchmarks/README.md](../benchmarks/README.md), every raw value in"
        f" [{source}](../{source}).",
        "  \n".join(cells.provenance(results)),
        "A cell is the median of all repeats and, in brackets, the smallest and the largest; per"
        " microbatch where a column does not say otherwise.",
    ]
    for summary in summaries:
        parts += _question(summary)
    return "\n\n".join(parts) + "\n"
