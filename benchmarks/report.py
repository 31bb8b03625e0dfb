"""The stored results as tables: one per case, then the bars, then where it does not help."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.bars import judge
from benchmarks.cases import CASES
from benchmarks.subjects import TITLES
from benchmarks.summary import Row, Spread, Summary, summarise

LEGEND = (
    "us per microbatch: median, and the smallest and largest repeat. rate: times the DataLoader's."
    "\nmemcpy: bandwidth in percent of one memcpy of the same bytes. Trainer CPU in parentheses:"
    "\nin percent of what the DataLoader costs the trainer."
)


def number(value: float) -> str:
    """Three significant digits where they matter, thousands separated."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def spread(value: Spread) -> str:
    """``median [low-high]``."""
    return f"{number(value.median)} [{number(value.low)}-{number(value.high)}]"


def case_cells(rows: Mapping[str, Row], nbytes: int) -> Iterable[list[str]]:
    """The text of one case's table, row by row."""
    base = rows.get("dataloader")
    limit = rows.get("memcpy")
    for subject, title in TITLES.items():
        row = rows.get(subject)
        if row is None:
            continue
        wall_us = row.wall_us.median
        # What never copies the bytes has no bandwidth to speak of.
        copies = limit is not None and not subject.startswith("in-process")
        cpu = number(row.trainer_cpu_us.median)
        if base is not None:
            share = row.trainer_cpu_us.median / base.trainer_cpu_us.median
            cpu = f"{cpu} ({share:.1%})"
        yield [
            title,
            spread(row.wall_us),
            f"{base.wall_us.median / wall_us:.1f}x" if base is not None else "",
            f"{nbytes / wall_us * 1e6 / 2**30:.2f}" if copies else "",
            f"{limit.wall_us.median / wall_us:.0%}" if copies and limit is not None else "",
            cpu,
            number(row.producer_cpu_us.median),
        ]


CASE_COLUMNS = ("", "wall us", "rate", "GiB/s", "memcpy", "trainer CPU us", "producer CPU us")


def bar_cells(summary: Summary) -> Iterable[list[str]]:
    """Each bar: what was asked, what was measured, reached or missed."""
    for verdict in judge(summary):
        bar, figure = verdict.bar, verdict.figure
        yield [
            f"{bar.case}: {CASES[bar.case].title}",
            bar.what,
            f"{'>=' if bar.at_least else '<='} {number(bar.limit)} {bar.unit}",
            "not measured" if figure is None else f"{number(figure)} {bar.unit}",
            "reached" if verdict.reached else "missed",
        ]


BAR_COLUMNS = ("case", "what", "wanted", "measured", "")


def loss_cells(summary: Summary) -> Iterable[list[str]]:
    """Where a producer process loses: data that costs nothing to make."""
    for case, rows in summary.items():
        if "fkat" not in rows or "in-process" not in rows:
            continue
        here, fkat = rows["in-process"], rows["fkat"]
        yield [
            f"{case}: {CASES[case].title}",
            number(here.wall_us.median),
            number(fkat.wall_us.median),
            f"{fkat.wall_us.median / here.wall_us.median:.1f}x slower",
            f"{number(fkat.trainer_cpu_us.median)} us",
        ]


LOSS_COLUMNS = ("case", "in process us", "fkat us", "the hand-off is", "pays if making one takes >")


def _table(title: str, columns: Iterable[str], cells: Iterable[list[str]]) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left", pad_edge=False)
    for position, column in enumerate(columns):
        justify = "left" if position == 0 else "right"
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in cells:
        style = "bold" if row[0].startswith("fkat") else "red" if row[-1] == "missed" else None
        table.add_row(*row, style=style)
    return table


def provenance(results: Mapping[str, Any]) -> str:
    """One paragraph: commit, machine, versions, method."""
    env, options = results["environment"], results["options"]
    commit = (env["git_commit"] or "no commit")[:12] + (" + changes" if env["git_dirty"] else "")
    versions = ", ".join(f"{name} {v}" for name, v in env["packages"].items() if v)
    return (
        f"{env['date_utc']}, commit {commit}, python {env['python']}, {versions}\n"
        f"{env['cpu_model']}, {env['num_cores']} cores, kernel {env['kernel']}, load"
        f" {env['load_average'][0]} before\n"
        f"{options['rounds']} rounds x {options['passes']} timed passes,"
        f" {options['prefetches']} microbatches prefetched; others used"
        f" {median(run['foreign_cores'] for run in results['runs']):.2f} cores meanwhile"
    )


def print_report(results: Mapping[str, Any], console: Console) -> None:
    """Everything, for a person at a terminal."""
    summary = summarise(results)
    console.print(provenance(results), style="dim", highlight=False)
    for name, rows in summary.items():
        case = CASES[name]
        title = f"{name}: {case.title}"
        console.print(_table(title, CASE_COLUMNS, case_cells(rows, case.nbytes)))
    console.print(LEGEND + "\n", style="dim", highlight=False)
    console.print(_table("What it has to reach", BAR_COLUMNS, bar_cells(summary)))
    title = "Where it loses: microbatches that cost nothing to make"
    console.print(_table(title, LOSS_COLUMNS, loss_cells(summary)))
    for failure in results["failures"]:
        what = f"{failure['subject']} on {failure['case']}: {failure['reason']}"
        console.print(f"failed: {what}", style="red", markup=False, highlight=False)
