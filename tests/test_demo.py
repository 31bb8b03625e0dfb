"""The demo as `make demo` runs it: a real kill, a real resume; and that it can fail."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from examples.lm.sessions import count_processes, kill_leader
from examples.lm.verdict import Microbatch, Verdict, compare, print_verdict

KILL_AND_RESUME = Path(__file__).parents[1] / "examples" / "kill_and_resume.py"

UNINTERRUPTED = [
    Microbatch(0, [4, 2], 3.0),
    Microbatch(0, [1, 3], 2.5),
    Microbatch(1, [2, 3], 2.0),
    Microbatch(1, [4, 1], 1.5),
]
A, B, C, D = UNINTERRUPTED


def test_a_killed_run_resumes_with_the_ids_and_losses_of_an_uninterrupted_one(tmp_path):
    result = subprocess.run(
        # One epoch of 48; killed some steps after the only checkpoint, or the one after it.
        [sys.executable, str(KILL_AND_RESUME), "--epochs=1", "--save-every=16", "--kill-after=20"],
        env={**os.environ, "COLUMNS": "100", "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    output = result.stdout
    assert result.returncode == 0, output + result.stderr
    assert "uninterrupted; 48 microbatches finished" in output
    # Trainer and two producers; some start methods have helpers, too.
    assert re.search(r"killed by SIGKILL: 0 of its [3-9] processes left;", output)
    assert "ids seen before: 256, after: 512; uninterrupted: 768" in output
    assert "repeated: 0, lost: 0" in output
    assert "The ids seen before and after are those of the uninterrupted run, in order," in output
    assert "the losses of all 48 microbatches are equal, bit for bit." in output
    assert list(tmp_path.glob("fkat-demo-*")) == []


@pytest.mark.parametrize(
    ("actual", "verdict"),
    [
        ([A, B, C, D], Verdict(0, 0, None, None)),
        ([A, B, C], Verdict(0, 2, 3, 3)),  # it ended too early
        ([A, C, D], Verdict(0, 2, 1, 1)),  # a microbatch is lost
        ([A, B, B, C, D], Verdict(2, 0, 2, 2)),  # one is repeated
        ([A, B, D, C], Verdict(0, 0, 2, 2)),  # the order is another
        ([A, B._replace(ids=[3, 1]), C, D], Verdict(0, 0, 1, None)),
        ([A, B, C._replace(epoch=0), D], Verdict(2, 2, 2, None)),
        ([A, B, C._replace(loss=2.0000000000000004), D], Verdict(0, 0, None, 2)),
        ([], Verdict(0, 8, 0, 0)),
    ],
)
def test_the_comparison_sees_every_difference(actual, verdict):
    assert compare(UNINTERRUPTED, actual) == verdict
    assert verdict.is_exact == (actual == UNINTERRUPTED)


@pytest.mark.parametrize(
    ("after", "text"),
    [([C, D], "are those of the uninterrupted run, in order,"), ([D, C], "NOT THE SAME")],
)
def test_the_verdict_is_printed_and_returned(after, text):
    printed = io.StringIO()
    is_exact = print_verdict(UNINTERRUPTED, [A, B], after, Console(file=printed, width=100))
    assert is_exact == (after == [C, D])
    assert text in printed.getvalue()


def test_a_process_that_outlives_the_killed_one_is_counted():
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 1000 & echo $!; wait"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with leader:
        survivor = int(leader.stdout.readline())
        assert kill_leader(leader, within_s=0.1) == (2, 1)
        os.kill(survivor, signal.SIGKILL)
    while count_processes(leader.pid):
        time.sleep(0.01)
