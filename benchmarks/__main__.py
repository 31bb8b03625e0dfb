"""``python -m benchmarks [QUESTION ...]``: measures, stores every raw value, prints tables."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks import questions
from benchmarks.harness.environment import ROOT
from benchmarks.harness.question import Effort
from benchmarks.harness.run import Results, run
from benchmarks.report.summary import Summary, summarise
from benchmarks.report.tables import print_report

QUICK = Effort(repeats=1, shorten=10)


def measure(options: argparse.Namespace, console: Console) -> Results:
    """Ask the questions, with a line that says where it is."""
    asked = [questions.load(name) for name in options.questions]
    effort = QUICK if options.quick else Effort(options.repeats)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        return run(
            asked,
            effort,
            cases=options.only_cases,
            subjects=options.only_subjects,
            tell=lambda label: progress.update(task, description=label),
        )


def store(results: Results, output: Path | None) -> Path:
    """Write the raw values and where they come from as JSON."""
    environment = results["environment"]
    stamp = environment["date_utc"][:19].replace(":", "")
    commit = (environment["git_commit"] or "uncommitted")[:12]
    path = output or ROOT / "benchmarks" / "results" / f"{stamp}-{commit}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def summaries_of(results: Results) -> list[Summary]:
    """The stored questions, in their order."""
    names = [name for name in questions.ORDER if name in results["questions"]]
    return [summarise(questions.load(name), results) for name in names]


def has_failed(results: Results) -> bool:
    """Whether a subject failed; one that cannot do a case or is not installed has not."""
    every = (each for question in results["questions"].values() for each in question["outcomes"])
    return any(outcome["kind"] == "failed" for outcome in every)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(questions.ORDER)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {names}; all")
    parser.add_argument("--repeats", type=int, default=5, help="timed stretches each (5)")
    parser.add_argument("--quick", action="store_true", help="a smoke test: its numbers are noise")
    parser.add_argument("--only-cases", nargs="+", metavar="CASE")
    parser.add_argument("--only-subjects", nargs="+", metavar="SUBJECT")
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print a stored result instead")
    parser.add_argument(
        "--page", type=Path, metavar="JSON", help="write docs/benchmarks.md and its plots instead"
    )
    options = parser.parse_args(arguments)
    options.questions = options.questions or list(questions.ORDER)
    unknown = [name for name in options.questions if name not in questions.ORDER]
    if unknown:
        parser.error(f"there is no question {unknown[0]!r}; there are {names}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure or load, then print; 1 if a loader failed (a missed bar is not a failure)."""
    options = parse(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    stored = options.show or options.page
    results = json.loads(stored.read_text()) if stored else measure(options, console)
    if options.page:
        from benchmarks.report.write import write_page

        write_page(results, summaries_of(results), options.page)
        return 0
    print_report(results, summaries_of(results), console)
    if not stored:
        path = store(results, options.output)
        console.print(f"stored in {path}", style="dim", highlight=False)
    return 1 if has_failed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
