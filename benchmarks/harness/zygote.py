"""Forks a fresh process for each configuration, so that none waits for torch to be imported.

``python -m benchmarks.harness.zygote``: a line of JSON on its standard input asks for subjects of a
case, a line of JSON for each on its standard output answers; the first line says what is installed.
For a case it forks a process that makes what all its subjects need, and that forks theirs. Neither
has threads: a fork of it is as good as a new interpreter that has imported torch and numpy.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

TIMEOUT_S = 120
"""A configuration takes seconds; one that takes this long hangs, and has failed."""

EXIT_TIMEOUT_S = 1
"""What a process may take to end when its outcome is known; some loaders hang then."""

_PIPE_NBYTES = 1 << 20
"""Room for an outcome, so that the child need not wait until it is read."""

_F_SETPIPE_SZ = 1031

_subject_pids: list[int] = []


def _end_without_freeing() -> None:
    """The last exit handler of a subject's process, after those of its loader.

    To free the modules that it shares with its parent would copy their pages: 0.2 s each time.
    """
    if os.getpid() in _subject_pids:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _measure_into(request: dict[str, Any], subject: str, pipe: int) -> None:
    """The process of a subject: measure, and write the outcome."""
    from benchmarks.harness.memory import shared_with
    from benchmarks.harness.one import Outcome, measure
    from benchmarks.harness.question import Effort

    _subject_pids.append(os.getpid())
    os.setsid()
    shared_with(os.getppid())
    names = (request["question"], request["case"], subject)
    try:
        outcome = measure(*names, Effort(**request["effort"]))
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome("failed", reason=f"{type(error).__name__}: {error}")
    os.write(pipe, json.dumps(asdict(outcome)).encode())


def _wait(pid: int, pipe: int) -> str:
    """Wait until the child has ended; empty, or what was wrong with how it did.

    It is killed with the processes of its session if there is no outcome in time, or if it does not
    end when there is.
    """
    pidfd = os.pidfd_open(pid)
    select.select([pidfd, pipe], [], [], TIMEOUT_S)
    has_outcome = bool(select.select([pipe], [], [], 0)[0])
    has_ended = bool(select.select([pidfd], [], [], EXIT_TIMEOUT_S if has_outcome else 0)[0])
    os.close(pidfd)
    if not has_ended:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if has_outcome:
        return "" if has_ended else f"it hung at exit, and was killed after {EXIT_TIMEOUT_S} s"
    if has_ended:
        return f"it ended with exit code {os.waitstatus_to_exitcode(status)}"
    return f"no result after {TIMEOUT_S} s"


def _answer(pid: int, pipe: int) -> dict[str, Any]:
    """The outcome of the child, whatever became of it."""
    trouble = _wait(pid, pipe)
    os.set_blocking(pipe, False)  # a process that outlives the child may have inherited the pipe
    try:
        text = os.read(pipe, _PIPE_NBYTES)
    except BlockingIOError:
        text = b""
    failed: dict[str, Any] = {"kind": "failed", "metrics": {}, "reason": ""}
    answer: dict[str, Any] = json.loads(text) if text else failed
    answer["reason"] = "; ".join(filter(None, (answer["reason"], trouble)))
    return answer


def _get_ready_to_fork() -> None:
    """See that there is one thread, and keep the collector off what the children share."""
    num_threads = len(list(Path("/proc/self/task").iterdir()))
    if num_threads != 1:
        raise RuntimeError(f"a process that forks must have 1 thread, this one has {num_threads}")
    gc.collect()
    gc.freeze()


def _measure_case(request: dict[str, Any], answers: TextIO) -> None:
    """The process of a case: prepare it, then fork for one subject after the other."""
    import fcntl

    from benchmarks.harness.foreign_load import ForeignLoad
    from benchmarks.harness.memory import shared_with
    from benchmarks.questions import load

    shared_with(os.getppid())
    with suppress(Exception):  # what fails here fails again for each subject, which tells of it
        load(request["question"]).prepare(request["case"])
    _get_ready_to_fork()
    for subject in request["subjects"]:
        foreign = ForeignLoad()
        reader, writer = os.pipe()
        fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE_NBYTES)
        pid = os.fork()
        if pid == 0:
            _measure_into(request, subject, writer)
            return  # and out, as from any program: the loaders' own exit handlers run
        os.close(writer)
        answer = _answer(pid, reader)
        os.close(reader)
        answer["foreign_cores"] = round(foreign.cores(), 2)
        answer["seconds"] = round(foreign.elapsed_s, 2)
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # it has started nothing else; freeing what it made takes a while


def main() -> None:
    """Answer requests until the input ends."""
    atexit.register(_end_without_freeing)  # first here, so last to be called

    import torch  # noqa: F401

    from benchmarks.harness.environment import packages

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a loader prints is no answer
    print(json.dumps({"packages": packages()}), file=answers, flush=True)
    _get_ready_to_fork()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _measure_case(json.loads(line), answers)
            return
        _, status = os.waitpid(pid, 0)
        if status:
            sys.exit("the process of a case ended before it had answered for each subject")


if __name__ == "__main__":
    main()
