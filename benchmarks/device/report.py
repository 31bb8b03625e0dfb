"""A stored result of `benchmarks.device` as Markdown, which a terminal shows well enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.device.bars import DeviceSummary, Verdict, judge, summarise
from benchmarks.device.cases import STEPS
from benchmarks.device.subjects import TITLES
from benchmarks.harness.spread import Spread


def spread(value: Spread | None, digits: int = 2) -> str:
    """``median [low-high]``."""
    if value is None:
        return "not measured"
    median, low, high = (f"{each:.{digits}f}" for each in (value.median, value.low, value.high))
    return f"{median} [{low}-{high}]"


def table(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """Rows, padded to the width of their columns."""
    rows = [list(columns), *map(list, cells)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    rows.insert(1, ["-" * width for width in widths])
    padded = ([text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in padded)


def size(nbytes: float) -> str:
    """In KiB or MiB."""
    return f"{nbytes / 1024:.0f} KiB" if nbytes < 1 << 20 else f"{nbytes / 2**20:.0f} MiB"


def provenance(results: Mapping[str, Any]) -> str:
    """One paragraph: commit, machine, GPU, versions, calibration."""
    env, gpu, calibration = (results[key] for key in ("environment", "gpu", "calibration"))
    commit = (env["git_commit"] or "no commit")[:12] + (" + changes" if env["git_dirty"] else "")
    versions = ", ".join(f"{name} {v}" for name, v in env["packages"].items() if v)
    products = ", ".join(f"{name} {count}" for name, count in calibration["matmuls"].items())
    return (
        f"{env['date_utc']}, commit {commit}, python {env['python']}, {versions}\n"
        f"{gpu['name']}, driver {gpu['driver']}, CUDA {gpu['cuda']}; {env['cpu_model']},"
        f" {env['num_cores']} cores, kernel {env['kernel']}\n"
        f"{results['options']['rounds']} rounds x {results['options']['passes']} passes. The best"
        f" pinned copy of a step's microbatch took {calibration['copy_ms']:.3f} ms, a matrix"
        f" product {calibration['matmul_ms'] * 1e3:.1f} us; products a step: {products}"
    )


def copy_cells(summary: DeviceSummary) -> Iterable[list[str]]:
    """A row for each size."""
    for nbytes, rates in sorted(summary.copies.items()):
        figures = [spread(rates.get(name), 1) for name in ("ours", "pinned", "delivered")]
        yield [size(nbytes), *figures, f"{summary.copy_percent[nbytes].median:.1f} %"]


def step_cells(summary: DeviceSummary, step: str, missing: Sequence[str]) -> Iterable[list[str]]:
    """A row for each loader; those that are not installed say so."""
    rows = summary.steps.get(step, {})
    base = rows.get("resident")
    for subject, title in TITLES.items():
        row = rows.get(subject)
        if row is None:
            reason = "not installed" if subject in missing else "not measured"
            yield [title, reason, "", ""]
            continue
        ratio = f"{row.median / base.median:.3f}x" if base is not None else ""
        yield [title, spread(row), ratio, size(summary.peaks[step][subject].median)]


def bar_cells(verdicts: Iterable[Verdict]) -> Iterable[list[str]]:
    """Each bar: what was asked, what was measured, reached or missed."""
    for verdict in verdicts:
        bar, figure = verdict.bar, verdict.figure
        measured = "not measured" if figure is None else f"{figure:.2f} {bar.unit}"
        wanted = f"{'>=' if bar.at_least else '<='} {bar.limit:g} {bar.unit}"
        yield [bar.what, wanted, measured, "reached" if verdict.reached else "missed"]


COPY_COLUMNS = ("microbatch", "our copies", "pinned copies", "delivered", "ours of pinned")
STEP_COLUMNS = ("", "ms a step", "of compute alone", "peak device memory")
TRAINER_COLUMNS = ("wall us", "CPU us", "seconds per GiB page-locked")
BAR_COLUMNS = ("what", "wanted", "measured", "")


def to_markdown(results: Mapping[str, Any]) -> str:
    """Everything."""
    summary = summarise(results)
    missing = results["not_installed"]
    parts = [provenance(results).replace("\n", "  \n")]
    parts += ["**Into the GPU, GiB/s**", table(COPY_COLUMNS, copy_cells(summary))]
    for name, step in STEPS.items():
        cells = step_cells(summary, name, missing)
        parts += [f"**{name}: {step.title}**", table(STEP_COLUMNS, cells)]
    clocks = [spread(summary.trainer.get(clock)) for clock in ("wall_us", "cpu_us")]
    parts += [
        "**The trainer's thread, us a microbatch of 20 tensors; page-locking**",
        table(TRAINER_COLUMNS, [[*clocks, spread(summary.registration, 3)]]),
        "**What it has to reach**",
        table(BAR_COLUMNS, bar_cells(judge(summary))),
    ]
    parts += [f"failed: {failure}" for failure in results["failures"]]
    return "\n\n".join(parts)
