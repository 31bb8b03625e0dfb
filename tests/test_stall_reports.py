"""What a report of a stall says of a producer that waits itself; the log; what it costs."""

from __future__ import annotations

import logging
import re
import signal
import threading
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from fkat.data import ShmDataLoader
from fkat.data._seeding import Seeder
from fkat.data._transport import stall
from fkat.data._transport.producer_feed import ProducerFeed, RingOptions
from fkat.data._transport.work import LoaderWork
from tests.stalls import (
    HANGS_AT,
    SIZE,
    Hanging,
    hanging_factory,
    stall_saying,
    unbatched,
    values_of,
)


@pytest.fixture
def gone(tmp_path: Path) -> Path:
    return tmp_path / "gone"


@pytest.fixture
def start_feed(gone):
    """A feed whose third microbatch hangs, and which is not asked for anything."""
    feeds = []

    def start(num_prefetches: int, budget_nbytes: int) -> ProducerFeed:
        work = LoaderWork(partial(unbatched, Hanging(gone)), Seeder(0, 0))
        options = RingOptions(num_prefetches, 1 << 20, budget_nbytes, get_context(), None, 0)
        feeds.append(ProducerFeed(work, options, None, "producer 3"))
        return feeds[-1]

    yield start
    for feed in feeds:
        feed.stop()
    feeds.clear()


@pytest.mark.parametrize(
    ("num_prefetches", "budget_nbytes", "begins", "num_published", "expected"),
    [
        (1, 1 << 20, False, 0, "waiting to be asked for an epoch"),
        (1, 1 << 20, True, 1, "waiting until another microbatch is wanted"),
        (8, 1 << 19, True, 2, "waiting for a free slot, or for room in the memory budget"),
    ],
)
def test_a_producer_that_waits_itself(
    start_feed, wait_until, num_prefetches, budget_nbytes, begins, num_published, expected
):
    feed = start_feed(num_prefetches, budget_nbytes)
    if begins:
        feed.begin_pass(0)
    wait_until(lambda: f"since then it is {expected}.\n" in feed.report())
    report = feed.report()
    assert re.match(r"producer 3 \(pid \d+\) is alive\.", report)
    # The first is what the loader is made of.
    assert f"\nqueue: {num_published} published and unread; slots: " in report
    assert f" {num_published} published, 0 leased to the trainer\n" in report


@pytest.fixture
def told(caplog, monkeypatch):
    """What was logged; a wait is long after a fifth of a second."""
    monkeypatch.setattr(stall, "LOGGED_AFTER_S", 0.2)
    caplog.set_level(logging.WARNING, "fkat.data")
    return lambda: [record for record in caplog.records if record.name == "fkat.data"]


def test_without_a_timeout_each_long_wait_is_logged_once(gone, told):
    loader = ShmDataLoader(0, partial(unbatched, Hanging(gone)), num_microbatch_prefetches=0)
    values = [int(next(loader)[0]) for _ in range(HANGS_AT)]
    before = len(told())  # a slow start may have been
    values.append(_next_after(loader, gone, 1.0))
    assert len(told()) == before + 1
    record = told()[-1]
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert text.startswith("no microbatch for 0.2 s: the producer (pid ")
    assert "reading the data, in user code" in text
    assert " in sleep\n" in text
    assert values + values_of(loader) == list(range(SIZE))
    gone.unlink()
    values = [int(next(iter(loader))[0]), int(next(loader)[0])]
    before = len(told())
    values.append(_next_after(loader, gone, 1.0))
    assert len(told()) == before + 1
    assert values + values_of(loader) == list(range(SIZE))


def _next_after(loader: ShmDataLoader, gone: Path, seconds: float) -> int:
    timer = threading.Timer(seconds, gone.touch)
    timer.start()
    value = int(next(loader)[0])
    timer.join()
    return value


def test_a_length_that_is_long_in_coming_is_logged(gone, told):
    loader = ShmDataLoader(0, partial(hanging_factory, gone))
    timer = threading.Timer(1.0, gone.touch)
    timer.start()
    assert len(loader) == SIZE
    timer.join()
    (record,) = told()
    assert record.getMessage().startswith("no length for 0.2 s: ")


def test_with_a_timeout_nothing_is_logged(gone, told):
    loader = ShmDataLoader(0, partial(unbatched, Hanging(gone)), timeout=0.5)
    stall_saying(" in sleep\n", partial(next, loader), HANGS_AT)
    assert told() == []


def test_the_trainer_keeps_its_signals_and_its_descriptors(gone):
    def of_this_process():
        status = Path("/proc/self/status").read_text()
        masks = re.findall(r"^Sig(?:Blk|Ign|Cgt):.*", status, re.MULTILINE)
        return masks, [signal.getsignal(n) for n in signal.valid_signals()]

    def descriptors():
        return sorted(Path("/proc/self/fd").iterdir())

    without_loader = descriptors()
    before = of_this_process()
    loader = ShmDataLoader(0, partial(unbatched, Hanging(gone)), timeout=0.1)
    stall_saying(" in sleep\n", partial(next, loader), HANGS_AT)
    with_loader = descriptors()
    for _ in range(5):
        stall_saying(" in sleep\n", partial(next, loader))
    assert (of_this_process(), descriptors()) == (before, with_loader)
    del loader
    assert descriptors() == without_loader
