"""A producer that lives and delivers nothing: the error says what it does, and where."""

from __future__ import annotations

import importlib
import os
import re
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from fkat.data import ShmDataLoader
from fkat.data.errors import StalledError
from fkat.data.sharded import ShardedDataLoader
from tests.stalls import (
    HANGS_AT,
    SIZE,
    Hanging,
    compute,
    hanging_factory,
    hold_the_gil,
    stall_saying,
    take_the_signal,
    time_out,
    unbatched,
    values_of,
)

START_METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def gone(tmp_path: Path) -> Path:
    return tmp_path / "gone"


@pytest.mark.parametrize("method", START_METHODS)
def test_the_error_says_what_the_producer_does_and_where(gone, method):
    factory = partial(unbatched, Hanging(gone))
    loader = ShmDataLoader(
        0, factory, memory_budget_nbytes=1 << 24, timeout=0.3, multiprocessing_context=method
    )
    text = stall_saying(" in sleep\n", partial(next, loader), HANGS_AT)
    first, queue, memory, process, *stack = text.splitlines()
    start = r"no microbatch within timeout=0\.3 s: the producer \(pid \d+\) is alive\. "
    doing = (
        r"Its last heartbeat was \d+\.\d s ago; since then it is reading the data, in user code\."
    )
    assert re.fullmatch(start + doing, first)
    assert re.fullmatch(
        r"queue: 0 published and unread; slots: \d+ free, [01] being written, 0 published, "
        r"\d leased to the trainer",
        queue,
    )
    assert re.fullmatch(
        r"memory: \d+\.\d MiB of a budget of 16\.0 MiB, and \d\.\d MiB leased to the trainer",
        memory,
    )
    # Seen running if it still does what the question before made it do: write its stack.
    assert process in ("process: sleeping", "process: running")
    assert stack[:2] == ["Python stack, most recent call first:", "main thread:"]
    assert re.search(r'stalls\.py", line \d+ in sleep$', stack[2])
    assert re.search(r'stalls\.py", line \d+ in __getitem__$', stack[3])
    assert re.search(r'producer\.py", line \d+ in main$', stack[-2])
    assert stack[-1] == "(raise timeout if that is to be expected)"
    gone.touch()
    assert values_of(loader) == list(range(HANGS_AT, SIZE))


@pytest.mark.parametrize("hang", [compute, hold_the_gil], ids=lambda hang: hang.__name__)
def test_user_code_that_never_waits_shows_its_stack(gone, hang):
    loader = ShmDataLoader(0, partial(unbatched, Hanging(gone, hang)), timeout=0.3)
    text = stall_saying(f" in {hang.__name__}\n", partial(next, loader), HANGS_AT)
    assert "it is reading the data, in user code" in text
    gone.touch()
    assert values_of(loader) == list(range(HANGS_AT, SIZE))


@pytest.mark.parametrize("what", ["len", "next"])
def test_a_factory_that_hangs(gone, what):
    loader = ShmDataLoader(0, partial(hanging_factory, gone), timeout=0.3)
    ask = {"len": partial(len, loader), "next": partial(next, loader)}[what]
    text = stall_saying("building the loader, in dataloader_factory", ask)
    assert text.startswith({"len": "no length", "next": "no microbatch"}[what])
    assert "in hanging_factory\n" in text
    gone.touch()
    assert values_of(loader) == list(range(SIZE))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_slow_import_in_a_new_interpreter(gone, method, tmp_path, monkeypatch):
    (tmp_path / "imported_slowly.py").write_text(
        "import pathlib, time\n"
        f"while not pathlib.Path({str(gone)!r}).exists():\n"
        "    time.sleep(0.01)\n"
        "def factory():\n"
        "    return [1, 2]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    gone.touch()  # for this process
    factory = importlib.import_module("imported_slowly").factory
    gone.unlink()
    loader = ShmDataLoader(0, factory, timeout=0.3, multiprocessing_context=method)
    text = stall_saying('imported_slowly.py", line 3 in <module>\n', partial(next, loader))
    assert "it is starting up, with the imports of user code" in text
    assert "importlib._bootstrap" not in text
    gone.touch()
    with pytest.raises(StopIteration):
        stall_saying("never", partial(next, loader))


def test_a_stopped_producer_cannot_answer(gone):
    loader = ShmDataLoader(0, partial(unbatched, Hanging(gone)), timeout=0.3)
    text = stall_saying(" in sleep\n", partial(next, loader), HANGS_AT)
    pid = int(re.search(r"pid (\d+)", text)[1])
    os.kill(pid, signal.SIGSTOP)
    text = stall_saying("process: stopped by a signal; SIGCONT would", partial(next, loader))
    assert "reading the data" in text
    assert "Python stack: no answer" in text
    os.kill(pid, signal.SIGCONT)
    assert " in sleep\n" in stall_saying("process: sleeping", partial(next, loader))
    gone.touch()
    assert values_of(loader) == list(range(HANGS_AT, SIZE))


def test_user_code_that_takes_the_signal_keeps_it(gone):
    loader = ShmDataLoader(0, partial(unbatched, Hanging(gone, take_the_signal)), timeout=0.3)
    stall_saying("Python stack: no answer", partial(next, loader), HANGS_AT)
    gone.touch()
    assert values_of(loader) == list(range(HANGS_AT, SIZE))


def test_a_timeout_error_of_user_code_is_not_taken_for_a_stall(gone):
    loader = ShmDataLoader(0, partial(unbatched, Hanging(gone, time_out)))
    for _ in range(HANGS_AT):
        next(loader)
    with pytest.raises(TimeoutError, match="object store") as caught:
        next(loader)
    assert not isinstance(caught.value, StalledError)


def test_a_producer_of_several(gone):
    gone.touch()
    hanging = gone.with_name("hangs")
    factory = partial(_shard_factory, hanging, gone)
    loader = ShardedDataLoader(0, ["a", "b"], factory, 2, timeout=0.3)
    text = stall_saying("in _shard_factory", partial(next, loader), SIZE)
    assert "it is reading the data, in user code" in text
    hanging.touch()
    assert values_of(loader) == list(range(SIZE))


def _shard_factory(hanging: Path, gone: Path, shard: str) -> DataLoader:
    if shard == "b":
        while not hanging.exists():
            time.sleep(0.01)
    return unbatched(Hanging(gone))
