"""A whole run: every configuration of the questions asked, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import asdict
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

    def measure(self, question: str, case: str, subject: str, effort: Effort) -> dict[str, Any]:
        """Ask for one configuration, and wait for it."""
        assert self._process.stdin is not None
        names = {"question": question, "case": case, "subject": subject}
        print(json.dumps({**names, "effort": asdict(effort)}), file=self._process.stdin, flush=True)
        return {"case": case, "subject": subject, **self._read()}

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class Interpreters:
    """A zygote for each interpreter that is needed, started when it is."""

    def __init__(self) -> None:
        self._zygotes: dict[Path, Zygote] = {}

    def measure(self, question: str, case: str, subject: str, effort: Effort) -> dict[str, Any]:
        """One configuration, under the interpreter that has its subject."""
        python = PUBLISHED_PYTHON if subject == PUBLISHED else Path(sys.executable)
        if not python.exists():
            reason = "it has no environment of its own here"
            absent = {"kind": "not installed", "metrics": {}, "reason": reason}
            return {"case": case, "subject": subject, **absent}
        if python not in self._zygotes:
            self._zygotes[python] = Zygote(python)
        return self._zygotes[python].measure(question, case, subject, effort)

    def published_packages(self) -> dict[str, str]:
        """Versions in the environment of the published package; empty if it was not used."""
        zygote = self._zygotes.get(PUBLISHED_PYTHON)
        return {} if zygote is None else zygote.packages

    def close(self) -> None:
        """End all."""
        for zygote in self._zygotes.values():
            zygote.close()


def run(
    questions: Sequence[Question],
    effort: Effort,
    *,
    cases: Collection[str] | None = None,
    subjects: Collection[str] | None = None,
    tell: Callable[[str], None] = lambda label: None,
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
                for subject in question.subjects:
                    if case in (cases or [case]) and subject in (subjects or [subject]):
                        tell(f"{question.name}, {case}, {subject}")
                        names = (question.name, case, subject)
                        outcomes.append(interpreters.measure(*names, effort))
            seconds = round(time.perf_counter() - start, 1)
            results["questions"][question.name] = {"seconds": seconds, "outcomes": outcomes}
        results["environment"]["published_packages"] = interpreters.published_packages()
    return results
