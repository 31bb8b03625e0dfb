"""The same tables in Markdown, for benchmarks/README.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.cases import CASES
from benchmarks.report import (
    BAR_COLUMNS,
    CASE_COLUMNS,
    LOSS_COLUMNS,
    bar_cells,
    case_cells,
    loss_cells,
    provenance,
)
from benchmarks.summary import summarise


def _table(columns: Sequence[str], cells: Iterable[list[str]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_markdown(results: Mapping[str, Any]) -> str:
    """Provenance, a table per case, the bars, where it loses."""
    summary = summarise(results)
    parts = [provenance(results).replace("\n", "  \n")]
    for name, rows in summary.items():
        case = CASES[name]
        parts.append(f"**{name}: {case.title}**")
        parts.append(_table(CASE_COLUMNS, case_cells(rows, case.nbytes)))
    parts += ["**What it has to reach**", _table(BAR_COLUMNS, bar_cells(summary))]
    parts += ["**Where it loses**", _table(LOSS_COLUMNS, loss_cells(summary))]
    return "\n\n".join(parts)
