"""Asking another process for its Python stacks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from fkat.data._transport import stack


class Asked:
    """A process that answers, and what it is asked through."""

    def __init__(self, body: Callable[[], None]) -> None:
        self.answers_fd, write_fd = stack.open_pipe()
        self.process = get_context("fork").Process(target=_run, args=(body, write_fd))
        self.process.start()
        os.close(write_fd)
        self.pidfd = os.pidfd_open(self.process.pid)

    def ask(self) -> str:
        return stack.ask(self.pidfd, self.answers_fd)

    def answer_from(self, function: Callable[[], None]) -> str:
        """Its answer once its main thread is in ``function``."""
        while True:
            answer = self.ask()
            if any(line.endswith(f" in {function.__name__}") for line in answer.splitlines()[1:2]):
                return answer

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        os.close(self.answers_fd)
        os.close(self.pidfd)


def _run(body: Callable[[], None], write_fd: int) -> None:
    if body is not sleep_without_answers:
        stack.answer_on(write_fd)
    body()


@pytest.fixture
def start():
    asked = []

    def start(body: Callable[[], None]) -> Asked:
        asked.append(Asked(body))
        return asked[-1]

    yield start
    for one in asked:
        one.close()


def sleep_in_main() -> None:
    time.sleep(1000)


def sleep_without_answers() -> None:
    time.sleep(1000)


def sleep_in_thread() -> None:
    time.sleep(1000)


def with_threads() -> None:
    for _ in range(3):
        threading.Thread(target=sleep_in_thread, daemon=True).start()
    sleep_in_main()


def recurse(depth: int = 200) -> None:
    if depth == 0:
        sleep_in_main()
    recurse(depth - 1)


def recurse_with_threads() -> None:
    for _ in range(30):
        threading.Thread(target=recurse, daemon=True).start()
    recurse()


def answer_late() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {stack.SIGNAL})
    while stack.SIGNAL not in signal.sigpending():
        time.sleep(0.01)
    time.sleep(stack._ANSWER_S + 0.2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {stack.SIGNAL})
    sleep_in_main()


def threads_of(answer: str) -> list[str]:
    return [line for line in answer.splitlines() if not line.startswith("  ")]


def test_the_main_thread_comes_first(start):
    asked = start(with_threads)
    first, *others = threads_of(asked.answer_from(sleep_in_main))
    assert first == "main thread:"
    assert len(others) == 3
    assert all(line.startswith("thread 0x") for line in others)


def test_a_long_answer_is_cut_but_not_where_it_matters(start):
    answer = start(recurse_with_threads).answer_from(sleep_in_main)
    assert len(answer) < 4200
    main, _, others = answer.partition("\nthread 0x")
    assert main.startswith("main thread:\n")
    assert main.endswith("\n  ... (cut)")
    assert others.endswith("\n  ... (cut)")


def test_each_answer_is_to_its_own_question(start):
    asked = start(with_threads)
    asked.answer_from(sleep_in_main)
    assert [len(threads_of(asked.ask())) for _ in range(3)] == [4] * 3


def test_an_answer_that_comes_too_late_is_dropped(start, wait_until):
    asked = start(answer_late)
    status = Path(f"/proc/{asked.process.pid}/status")
    wait_until(lambda: f"SigBlk:\t{1 << (stack.SIGNAL - 1):016x}\n" in status.read_text())
    assert asked.ask() == ""
    time.sleep(1)  # it has come
    assert asked.ask().splitlines()[1].endswith(" in sleep_in_main")  # and no more in answer_late


def test_nobody_reads_the_answers(start):
    asked = start(with_threads)
    asked.answer_from(sleep_in_main)
    for _ in range(500):  # many times what a pipe holds
        signal.pidfd_send_signal(asked.pidfd, stack.SIGNAL)
        time.sleep(0.001)
    asked.answer_from(sleep_in_main)
    assert asked.process.is_alive()


@pytest.mark.parametrize("is_reaped", [False, True])
def test_a_process_that_is_gone_gives_no_answer(start, is_reaped):
    asked = start(sleep_in_main)
    os.kill(asked.process.pid, signal.SIGKILL)
    if is_reaped:
        asked.process.join()
    assert asked.ask() == ""


def test_a_process_that_does_not_answer_yet_is_not_harmed(start):
    asked = start(sleep_without_answers)
    assert asked.ask() == ""
    assert asked.process.is_alive()


def test_a_signal_that_the_parent_blocks_is_answered(start):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {stack.SIGNAL})
    try:
        asked = start(sleep_in_main)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert asked.answer_from(sleep_in_main)
