"""Everything, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.report import cells
from benchmarks.report.summary import Results, Summary

LEGEND = "median [smallest-largest repeat]; per microbatch where a column does not say otherwise"


def _table(title: str, columns: Iterable[str], rows: Iterable[list[str]]) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right")
    for row in rows:
        style = "bold" if row[0].startswith("fkat Sh") else "red" if row[-1] == "missed" else None
        table.add_row(*row, style=style)
    return table


def print_question(summary: Summary, console: Console) -> None:
    """The tables of one question."""
    console.rule(summary.question.title, align="left")
    columns = cells.case_columns(summary)
    for case, title in cells.asked_cases(summary).items():
        console.print(_table(f"{case}: {title}", columns, cells.case_cells(summary, case)))
    for finding in summary.findings():
        console.print(finding, markup=False, highlight=False)
    for reason in cells.reasons(summary):
        console.print(reason, style="yellow", markup=False, highlight=False)
    if summary.question.bars:
        title = "What it has to reach"
        console.print(_table(title, cells.BAR_COLUMNS, cells.bar_cells(summary)))


def print_report(results: Results, summaries: Iterable[Summary], console: Console) -> None:
    """Where it comes from, then question by question."""
    for line in cells.provenance(results):
        console.print(line, style="dim", highlight=False)
    console.print(LEGEND, style="dim", highlight=False)
    for summary in summaries:
        print_question(summary, console)
