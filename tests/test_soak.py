"""A short soak: every kind of trouble, nothing wrong, and the exit code that says so."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from soak.counts import TROUBLES, Counts

pytestmark = pytest.mark.alone  # a soak asks for nobody else who leaves files in /dev/shm

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"│ (.+?) +│ +([\d,]+) │")

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    runs: list[subprocess.Popen[str]] = []

    def start_soak(*arguments: str, in_own_session: bool = True) -> subprocess.Popen[str]:
        command = [sys.executable, *arguments]
        out = subprocess.PIPE
        runs.append(
            subprocess.Popen(
                command, cwd=ROOT, stdout=out, text=True, start_new_session=in_own_session
            )
        )
        return runs[-1]

    yield start_soak
    for run in runs:
        if run.poll() is None:
            for process in psutil.Process(run.pid).children(recursive=True):
                process.kill()
            run.kill()
        run.stdout.close()
        run.wait()


def counts_in(output: str) -> tuple[dict[str, int], dict[str, int]]:
    """What happened, and what was wrong, as the table says."""
    rows = {name: int(count.replace(",", "")) for name, count in ROW.findall(output)}
    wrong = {name: rows.pop(name) for name in Counts().wrong}
    assert list(rows) == list(Counts().happened)
    return rows, wrong


@pytest.mark.timeout(600)  # on a slow machine it goes on until there was every trouble
def test_a_short_one_has_every_trouble_and_nothing_is_wrong(start):
    run = start("-m", "soak", "--minutes", "0.33", "--seed", "1")
    output, _ = run.communicate()
    happened, wrong = counts_in(output)
    assert wrong == dict.fromkeys(wrong, 0), output
    assert [name for name in TROUBLES if happened[name] == 0] == []
    assert happened["microbatches delivered"] > 0
    assert happened["looks for leaks"] > 0
    assert run.returncode == 0


@pytest.mark.timeout(300)
def test_ctrl_c_ends_it_with_the_counts_so_far(start, wait_until):
    run = start("-m", "soak", "--minutes", "60", "--seed", "1", in_own_session=False)
    assert run.stdout.readline() == "soak of 60 minutes, seed 1\n"
    wait_until(lambda: len(psutil.Process(run.pid).children(recursive=True)) > 4, within_s=120)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate()
    happened, wrong = counts_in(output)
    assert wrong == dict.fromkeys(wrong, 0), output
    assert happened["looks for leaks"] < 3
    assert run.returncode == 128 + signal.SIGINT


WITH_A_FAULT = '''
import sys
import soak.life
from soak.__main__ import main

class Losing:
    """Delivers every other microbatch."""

    def __init__(self, subject, setup):
        self.loader = real(subject, setup)

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __iter__(self):
        iter(self.loader)
        return self

    def __next__(self):
        next(self.loader)
        return next(self.loader)

real, soak.life.open_loader = soak.life.open_loader, Losing
sys.exit(main(["--minutes", "0.01", "--seed", "1"]))
'''


@pytest.mark.timeout(300)
def test_a_loader_that_loses_microbatches_makes_it_end_with_1(start):
    run = start("-c", WITH_A_FAULT)
    output, _ = run.communicate()
    _, wrong = counts_in(output)
    assert wrong["microbatches lost"] > 0
    assert "microbatches lost: Where(" in output
    assert run.returncode == 1
