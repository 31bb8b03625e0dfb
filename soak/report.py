"""What a soak prints at its end."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from soak.counts import Counts

_MAX_REPORTS = 20


def print_report(counts: Counts, seed: int, seconds: float, console: Console) -> None:
    """A table of counts, and in words what was wrong."""
    table = Table(title=f"soak of {seconds:.0f} s, seed {seed}")
    table.add_column("what")
    table.add_column("count", justify="right")
    for name, count in counts.happened.items():
        table.add_row(name, f"{count:,}")
    table.add_section()
    for name, count in counts.wrong.items():
        table.add_row(name, f"{count:,}", style="bold red" if count else "green")
    console.print(table)
    for report in counts.reports[:_MAX_REPORTS]:
        console.print(report, markup=False, soft_wrap=True)
    if len(counts.reports) > _MAX_REPORTS:
        console.print(f"... and {len(counts.reports) - _MAX_REPORTS} more")
