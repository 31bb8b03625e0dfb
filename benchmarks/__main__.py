"""``python -m benchmarks``: every loader on every case, side by side; prints and stores.

Each measurement is a process of its own. A round measures every loader of a case once, one right
after the other and in another order than the round before, so that what else the machine does hits
all of them alike.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.cases import CASES
from benchmarks.environment import ROOT, describe
from benchmarks.foreign_load import ForeignLoad
from benchmarks.markdown import to_markdown
from benchmarks.report import print_report
from benchmarks.subjects import SUBJECTS

HANG_TIMEOUT_S = 300
"""A measurement takes seconds; one that takes this long hangs, and is reported as failed."""


def measure_in_process(case: str, subject: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run benchmarks.measure in a fresh process; its JSON, or ``{"reason": why not}``."""
    command = [sys.executable, "-m", "benchmarks.measure", case, subject]
    command += ["--passes", str(options.passes), "--prefetches", str(options.prefetches)]
    if options.quick:
        command += ["--shorten", "4"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return {"reason": f"no result after {HANG_TIMEOUT_S} s"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no output"]
        return {"reason": f"{lines[-1]} (exit code {done.returncode})"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def run(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Measure all that was asked for; one failing loader does not stop the others."""
    results: dict[str, Any] = {
        "environment": describe(),
        "options": {key: getattr(options, key) for key in ("rounds", "passes", "prefetches")},
        "runs": [],
        "failures": [],
    }
    num_runs = options.rounds * len(options.cases) * len(options.subjects)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=num_runs)
        for number in range(options.rounds):
            for case in options.cases:
                shift = number % len(options.subjects)
                for subject in options.subjects[shift:] + options.subjects[:shift]:
                    label = f"round {number + 1}/{options.rounds}, {case}, {subject}"
                    progress.update(task, description=label)
                    meter = ForeignLoad()
                    result = measure_in_process(case, subject, options)
                    result["foreign_cores"] = round(meter.cores(), 2)
                    if "reason" in result:
                        result = {"case": case, "subject": subject, **result}
                    kind = "failures" if "reason" in result else "runs"
                    results[kind].append({"round": number, **result})
                    progress.advance(task)
    return results


def store(results: dict[str, Any], output: Path | None) -> Path:
    """Write the raw values and where they come from as JSON."""
    environment = results["environment"]
    stamp = environment["date_utc"][:19].replace(":", "")
    commit = (environment["git_commit"] or "uncommitted")[:12]
    path = output or ROOT / "benchmarks" / "results" / f"{stamp}-{commit}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--repeats", dest="rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--passes", type=int, default=2, help="timed passes per process (2)")
    parser.add_argument("--prefetches", type=int, default=4, help="microbatches prefetched (4)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--quick", action="store_true", help="a smoke test: its numbers are noise")
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print a stored result instead")
    parser.add_argument("--markdown", action="store_true", help="print Markdown, for the README")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.passes = 1, 1
    return options


def main() -> int:
    """Measure or load, then print; 1 if a loader failed (a missed bar is not a failure)."""
    options = parse()
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    if options.show is not None:
        results = json.loads(options.show.read_text())
    else:
        results = run(options, console)
        path = store(results, options.output)
        console.print(f"stored in {path}", style="dim", highlight=False)
    if options.markdown:
        print(to_markdown(results))
    else:
        print_report(results, console)
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
