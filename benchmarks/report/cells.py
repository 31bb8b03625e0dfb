"""The texts of every table, whatever it is printed on."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from benchmarks.harness.cells import number, text
from benchmarks.report.summary import Results, Summary

BAR_COLUMNS = ("case", "what", "wanted", "measured", "")


def case_columns(summary: Summary) -> list[str]:
    """The head of a case's table."""
    return ["", *(column.title for column in summary.question.columns)]


def case_cells(summary: Summary, case: str) -> Iterator[list[str]]:
    """A case's table, row by row."""
    rows = summary.rows[case]
    for subject, title in summary.question.subjects.items():
        if subject in rows:
            yield [title, *(text(column, rows, subject) for column in summary.question.columns)]


def reasons(summary: Summary) -> Iterator[str]:
    """Who was not measured and why; cases with the same reason together."""
    cases: dict[tuple[str, str], list[str]] = {}
    for case, subjects in summary.reasons.items():
        for subject, reason in subjects.items():
            cases.setdefault((subject, reason), []).append(case)
    for (subject, reason), where in cases.items():
        everywhere = len(where) == len([case for case in summary.rows if _asked(summary, case)])
        on = "" if everywhere else f" on {', '.join(where)}"
        yield f"{summary.question.subjects[subject]}{on}: {reason}"


def _asked(summary: Summary, case: str) -> bool:
    return bool(summary.rows[case] or summary.reasons[case])


def asked_cases(summary: Summary) -> dict[str, str]:
    """Name -> title of the cases that were asked."""
    cases = summary.question.cases
    return {case: title for case, title in cases.items() if _asked(summary, case)}


def bar_cells(summary: Summary) -> Iterator[list[str]]:
    """Each bar: what was asked, what was measured, reached or missed."""
    for verdict in summary.verdicts():
        bar, figure = verdict.bar, verdict.figure
        yield [
            summary.question.cases[bar.case],
            bar.what,
            f"{'>=' if bar.at_least else '<='} {_figure(bar.limit)} {bar.unit}",
            "not measured" if figure is None else f"{_figure(figure)} {bar.unit}",
            "" if figure is None else "reached" if verdict.reached else "missed",
        ]


def _figure(value: float) -> str:
    """With the digits by which a ratio near 1 is decided."""
    return f"{value:.3g}" if abs(value) < 100 else number(value)


def provenance(results: Results) -> list[str]:
    """Commit, machine, versions, effort, disturbance: a line each."""
    env, effort = results["environment"], results["effort"]
    commit = (env["git_commit"] or "no commit")[:12] + (" + changes" if env["git_dirty"] else "")
    versions = [f"{name} {version}" for name, version in env["packages"].items()]
    versions += [
        f"{name} {version} (published)"
        for name, version in env.get("published_packages", {}).items()
        if name == "fkat"
    ]
    loads = [
        outcome["foreign_cores"]
        for question in results["questions"].values()
        for outcome in question["outcomes"]
        if "foreign_cores" in outcome
    ]
    others = f"others used {median(loads):.2f} cores meanwhile (median)" if loads else ""
    seconds = sum(question["seconds"] for question in results["questions"].values())
    return [
        f"{env['date_utc']}, commit {commit}, python {env['python']}",
        ", ".join(versions),
        f"{env['cpu_model']}, {env['num_cores']} cores, kernel {env['kernel']}, load"
        f" {env['load_average'][0]} before",
        f"{effort['repeats']} repeats, {seconds / 60:.1f} minutes in all; {others}",
    ]
