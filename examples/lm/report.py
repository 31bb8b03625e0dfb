"""The table at the end of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from lm.timing import NUM_WARMUP, WaitTimer


@dataclass(frozen=True)
class Run:
    """What one training run left behind; ``stall_s`` is the loader's own figure, if it has one."""

    title: str
    timer: WaitTimer
    losses: Sequence[float]
    stall_s: float | None


_LABELS = (
    "steps/s",
    "microbatches/s",
    "waiting, share of step time",
    "waiting, per microbatch",
    "  of it stall, by the loader",
    "final loss, nats per byte",
)


def _column(run: Run, microbatches_per_step: int) -> list[str]:
    timer = run.timer
    return [
        f"{timer.microbatches_per_s / microbatches_per_step:.1f}",
        f"{timer.microbatches_per_s:.1f}",
        f"{timer.wait_share:.2%}",
        f"{1e6 * timer.mean_wait_s:,.0f} us",
        "-" if run.stall_s is None else f"{1e6 * run.stall_s / len(run.losses):,.0f} us",
        f"{run.losses[-1]:.6f}",
    ]


def print_table(runs: Sequence[Run], microbatches_per_step: int, console: Console) -> None:
    """One column per loader, and whether both saw the same data."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("")
    for run in runs:
        table.add_column(run.title, justify="right")
    columns = [_column(run, microbatches_per_step) for run in runs]
    for cells in zip(_LABELS, *columns, strict=True):
        table.add_row(*cells)
    same = all(run.losses == runs[0].losses for run in runs)
    verdict = "are equal, bit for bit." if same else "DIFFER: not the same microbatches!"
    console.print()
    console.print(table)
    console.print(
        f"The losses of all {len(runs[0].losses)} microbatches {verdict}\n"
        f"Rates and waits leave out the first {NUM_WARMUP} microbatches. Waiting: the time from\n"
        "the end of one training step to the start of the next, with what Lightning\n"
        "itself does there. The stall is the loader's mean, warm-up included.",
        style="dim",
        highlight=False,
    )
