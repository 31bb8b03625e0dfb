"""A whole run: every configuration of the questions asked, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import ROOT, describe
from benchmarks.harness.question import Effort, Question
from benchmarks.sources.run_folder import shared_by_processes

PUBLISHED = "published"
"""The subject that needs an interpreter of its own: its package has the same name as ours."""

PUBLISHED_PYTHON = Path(
    os.environ.get("BENCH_PUBLISHED_PYTHON", ROOT / ".venv-published" / "bin" / "python")
)

Results = dict[str, Any]

Tell = Callable[[str], None]
"""Called with what is measured next."""


def _python_of(subject: str) -> Path:
    return PUBLISHED_PYTHON if subject == PUBLISHED else Path(sys.executable)


class Zygote:
    """A process that forks one for each configuration, see `benchmarks.harness.zygote`."""

    def __init__(self, python: str | Path) -> None:
        # Threads of a BLAS would not survive a fork.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.harness.zygote"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.packages: dict[str, str] = self._read()["packages"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"the process that forks the others ended with exit code {code}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(
        self, question: str, case: str, subjects: Sequence[str], effort: Effort, tell: Tell
    ) -> Iterator[dict[str, Any]]:
        """Ask for some subjects of one case, and wait for each."""
        assert self._process.stdin is not None
        names = {"question": question, "case": case, "subjects": subjects}
        print(json.dumps({**names, "effort": asdict(effort)}), file=self._process.stdin, flush=True)
        for subject in subjects:
            tell(f"{question}, {case}, {subject}")
            yield {"case": case, "subject": subject, **self._read()}

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class Interpreters:
    """A zygote for each interpreter that is needed, started when it is."""

    def __init__(self) -> None:
        self._zygotes: dict[Path, Zygote] = {}

    def measure(
        self, question: str, case: str, subjects: Sequence[str], effort: Effort, tell: Tell
    ) -> list[dict[str, Any]]:
        """Subjects of one case, each under the interpreter that has it; as often as named."""
        outcomes: list[dict[str, Any]] = []
        for python in dict.fromkeys(map(_python_of, subjects)):
            mine = [subject for subject in subjects if _python_of(subject) == python]
            if not python.exists():
                reason = "it has no environment of its own here"
                absent = {"kind": "not installed", "metrics": {}, "reason": reason}
                outcomes += ({"case": case, "subject": subject, **absent} for subject in mine)
                continue
            if python not in self._zygotes:
                self._zygotes[python] = Zygote(python)
            outcomes += self._zygotes[python].measure(question, case, mine, effort, tell)
        return outcomes

    def published_packages(self) -> dict[str, str]:
        """Versions in the environment of the published package; empty if it was not used."""
        zygote = self._zygotes.get(PUBLISHED_PYTHON)
        return {} if zygote is None else zygote.packages

    def close(self) -> None:
        """End all."""
        for zygote in self._zygotes.values():
            zygote.close()


def pooled(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All outcomes of a subject as one; of one that failed, that alone."""
    for outcome in outcomes:
        if outcome["kind"] != "measured":
            return outcome
    return {
        **outcomes[0],
        "metrics": {
            metric: [value for outcome in outcomes for value in outcome["metrics"][metric]]
            for metric in outcomes[0]["metrics"]
        },
        "reason": "; ".join(dict.fromkeys(filter(None, (each["reason"] for each in outcomes)))),
        "foreign_cores": max(outcome["foreign_cores"] for outcome in outcomes),
        "seconds": round(sum(outcome["seconds"] for outcome in outcomes), 2),
    }


def _measure_case(
    question: Question,
    case: str,
    subjects: Sequence[str],
    effort: Effort,
    interpreters: Interpreters,
    tell: Tell,
) -> list[dict[str, Any]]:
    twice = [name for name in subjects if name in question.twice]
    once = [name for name in subjects if name not in question.twice]
    outcomes = interpreters.measure(question.name, case, [*twice, *once, *twice], effort, tell)
    outcomes.sort(key=lambda outcome: subjects.index(outcome["subject"]))
    return [pooled(list(of_one)) for _, of_one in groupby(outcomes, itemgetter("subject"))]


def run(
    questions: Sequence[Question],
    effort: Effort,
    *,
    cases: Collection[str] | None = None,
    subjects: Collection[str] | None = None,
    tell: Tell = lambda label: None,
) -> Results:
    """Measure; whatever fails is noted and the rest goes on.

    Args:
        questions: In order.
        effort: Of each configuration.
        cases: Only these; None for all.
        subjects: Only these; None for all.
        tell: Called with what is measured next.
    """
    results: Results = {"environment": describe(), "effort": asdict(effort), "questions": {}}
    with closing(Interpreters()) as interpreters, shared_by_processes():
        for question in questions:
            start = time.perf_counter()
            outcomes = []
            for case in question.cases:
                if case in (cases or [case]):
                    asked = [name for name in question.subjects if name in (subjects or [name])]
                    outcomes += _measure_case(question, case, asked, effort, interpreters, tell)
            seconds = round(time.perf_counter() - start, 1)
            results["questions"][question.name] = {"seconds": seconds, "outcomes": outcomes}
        results["environment"]["published_packages"] = interpreters.published_packages()
    return results
