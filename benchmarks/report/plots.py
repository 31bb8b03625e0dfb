"""The pictures of the page: SVG, the same bytes from the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.harness.question import Plot
from benchmarks.harness.spread import Rows
from benchmarks.report.summary import Summary

_COLOURS = ("#9e9e9e", "#616161", "#4c8dd6", "#7fb3e6", "#e6893c", "#7d9a4b", "#b07fc7", "#c9a227")
_OURS = "#d6336c"
_TEXT = "#808080"
"""Grey that can be read on white and on black."""

_STYLE = {
    "svg.hashsalt": "fkat",  # ids would be random otherwise
    "svg.fonttype": "none",  # text stays text, in the reader's font
    "text.color": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
}


def _colours(summary: Summary) -> dict[str, str]:
    """A colour for each subject of the question, ours always the same."""
    subjects = summary.question.subjects
    others = [name for name in subjects if not name.startswith("fkat")]
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(others)}
    return {name: colours.get(name, _OURS) for name in subjects}


def _medians(plot: Plot, rows: Rows, subject: str) -> float | None:
    metrics = rows.get(subject, {})
    return metrics[plot.metric].median if plot.metric in metrics else None


def _bars(axes: Any, plot: Plot, summary: Summary, subjects: list[str], cases: list[str]) -> None:
    colours = _colours(summary)
    width = 0.8 / len(subjects)
    for i, subject in enumerate(subjects):
        heights = [_medians(plot, summary.rows[case], subject) or 0 for case in cases]
        places = [place + (i - (len(subjects) - 1) / 2) * width for place in range(len(cases))]
        hatch = "//" if subject.startswith("fkat-") else None
        title = summary.question.subjects[subject]
        axes.bar(places, heights, 0.9 * width, color=colours[subject], label=title, hatch=hatch)
    titles = [summary.question.cases[case].replace(" of ", "\nof ", 1) for case in cases]
    axes.set_xticks(range(len(cases)), titles, fontsize=7)


def _lines(axes: Any, plot: Plot, summary: Summary, subjects: list[str]) -> None:
    colours = _colours(summary)
    for subject in subjects:
        points = [
            (x, _medians(plot, summary.rows[case], subject)) for case, x in (plot.x or {}).items()
        ]
        known = [(x, y) for x, y in points if y is not None]
        title = summary.question.subjects[subject]
        axes.plot(*zip(*known, strict=True), "o-", color=colours[subject], label=title)
    axes.set_xscale("log")
    axes.set_xlabel(plot.x_title)


def draw(plot: Plot, summary: Summary, path: Path) -> None:
    """Write one picture."""
    cases = [case for case in plot.cases or plot.x or summary.question.cases if summary.rows[case]]
    subjects = [
        subject
        for subject in plot.subjects or summary.question.subjects
        if any(_medians(plot, summary.rows[case], subject) is not None for case in cases)
    ]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        axes = figure.add_subplot()
        if plot.x is None:
            _bars(axes, plot, summary, subjects, cases)
        else:
            _lines(axes, plot, summary, subjects)
        axes.set_yscale("log")
        axes.set_title(plot.title, loc="left", fontsize=10)
        axes.grid(axis="y", color=_TEXT, alpha=0.25)
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        figure.savefig(path, transparent=True, metadata={"Date": None})
