"""Whether a run that was killed and resumed did what an uninterrupted one did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

_NUM_SHOWN = 3  # microbatches on either side of the resume
_NUM_IDS_SHOWN = 4


class Microbatch(NamedTuple):
    """What a run says of a microbatch that it has finished."""

    epoch: int
    ids: list[int]
    loss: float


@dataclass(frozen=True)
class Verdict:
    """How two runs differ.

    Attributes:
        num_repeated: Samples that were trained on more often in an epoch than they should be.
        num_lost: Samples that were trained on less often.
        first_other_ids: The first microbatch that has other ids, or stands elsewhere; or None.
        first_other_loss: The first one whose loss differs in any bit; or None.
    """

    num_repeated: int
    num_lost: int
    first_other_ids: int | None
    first_other_loss: int | None

    @property
    def is_exact(self) -> bool:
        """Whether they do not differ at all."""
        return self == Verdict(0, 0, None, None)


def compare(expected: Sequence[Microbatch], actual: Sequence[Microbatch]) -> Verdict:
    """Compare a run with the uninterrupted one, as ordered lists."""
    wanted, seen = _samples(expected), _samples(actual)
    pairs = list(enumerate(zip_longest(expected, actual)))
    other_ids = (i for i, (e, a) in pairs if not (e and a and e[:2] == a[:2]))
    other_loss = (i for i, (e, a) in pairs if not (e and a and e.loss == a.loss))
    return Verdict(
        num_repeated=(seen - wanted).total(),
        num_lost=(wanted - seen).total(),
        first_other_ids=next(other_ids, None),
        first_other_loss=next(other_loss, None),
    )


def _samples(run: Sequence[Microbatch]) -> Counter[tuple[int, int]]:
    return Counter((microbatch.epoch, i) for microbatch in run for i in microbatch.ids)


def print_verdict(
    expected: Sequence[Microbatch],
    before: Sequence[Microbatch],
    after: Sequence[Microbatch],
    console: Console,
) -> bool:
    """Print the microbatches around the resume, and the comparison.

    Args:
        expected: The uninterrupted run.
        before: The killed run, up to the checkpoint.
        after: The resumed run.
        console: Where to print.

    Returns:
        Whether ``before`` and ``after`` together do not differ from ``expected``.
    """
    actual = [*before, *after]
    verdict = compare(expected, actual)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("step", justify="right")
    for title in ("uninterrupted: ids", "loss", "killed, resumed: ids", "loss"):
        table.add_column(title, no_wrap=True)
    for step in range(max(len(before) - _NUM_SHOWN, 0), len(before) + _NUM_SHOWN):
        if step == len(before):
            table.add_section()
        table.add_row(str(step), *_cells(expected, step), *_cells(actual, step))
    console.print(table)
    console.print(
        f"ids seen before: {_num_ids(before)}, after: {_num_ids(after)}; uninterrupted: "
        f"{_num_ids(expected)}\nrepeated: {verdict.num_repeated}, lost: {verdict.num_lost}\n"
    )
    if verdict.is_exact:
        console.print(
            "The ids seen before and after are those of the uninterrupted run, in order,\n"
            f"and the losses of all {len(expected)} microbatches are equal, bit for bit."
        )
    else:
        console.print(
            "NOT THE SAME as the uninterrupted run: first step with other ids: "
            f"{verdict.first_other_ids},\nwith another loss: {verdict.first_other_loss}."
        )
    return verdict.is_exact


def _num_ids(run: Sequence[Microbatch]) -> int:
    return sum(len(microbatch.ids) for microbatch in run)


def _cells(run: Sequence[Microbatch], step: int) -> tuple[str, str]:
    if step >= len(run):
        return "-", "-"
    ids = " ".join(f"{i:3}" for i in run[step].ids[:_NUM_IDS_SHOWN])
    return f"{ids} ...", f"{run[step].loss:.7f}"
