"""That a soak finds what is wrong: its checks of microbatches, and its looks for leaks."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import pytest

from fkat.data import _core
from soak import leaks, left, trainers
from soak.counts import Counts
from soak.deck import Deck
from soak.leaks import Usage, look_for_leaks
from soak.payload import EPOCH_LENGTH, Payloads, Shape, Where
from soak.stream import OutOfStepError, Stream
from soak.subjects import Subject

pytestmark = pytest.mark.alone  # whose a file in /dev/shm is cannot be told

SHAPE = Shape(max_words=5000, max_pause_s=0.0)


class Checked:
    """A stream, and microbatches for it without a loader."""

    def __init__(self):
        self.counts = Counts()
        self.drawn = {}
        self.payloads = Payloads(0, EPOCH_LENGTH, SHAPE)
        self.begin()

    def begin(self):
        self.stream = Stream(Subject(0, False, SHAPE), self.counts, self.drawn)

    def deliver(self, *offsets, tamper=lambda microbatch: None):
        for offset in offsets:
            microbatch = self.payloads[offset]
            microbatch["drawn"].fill_(offset)
            tamper(microbatch)
            self.stream.check_next(microbatch, "a loader")


def in_order(checked):
    checked.deliver(*range(EPOCH_LENGTH))
    checked.stream.check_end("a loader")


def lost(checked):
    checked.deliver(0, 1, 3)


def lost_at_the_end(checked):
    checked.deliver(*range(EPOCH_LENGTH - 3))
    checked.stream.check_end("a loader")


def repeated(checked):
    checked.deliver(0, 1, 1)


def one_too_many(checked):
    checked.deliver(*range(EPOCH_LENGTH + 1))


def torn(checked):
    checked.deliver(0, 1, 2)
    checked.deliver(3, tamper=lambda microbatch: microbatch.update(words=microbatch["words"] + 1))


def torn_array(checked):
    def tamper(microbatch):
        microbatch["last bytes"] = microbatch["last bytes"] + 1

    checked.deliver(0, 1, 2)
    checked.deliver(3, tamper=tamper)


def torn_while_held(checked):
    microbatch = checked.payloads[3]
    checked.stream.check_held(microbatch, Where(0, 0, 3), "a loader")
    microbatch["words"][0] += 1
    checked.stream.check_held(microbatch, Where(0, 0, 3), "a loader")


def of_another_epoch(checked):
    checked.payloads.set_epoch(1)
    checked.deliver(0)


def with_other_random_numbers(checked):
    checked.deliver(0, 1, 2)
    checked.begin()
    checked.deliver(0, 1)
    checked.deliver(2, tamper=lambda microbatch: microbatch["drawn"].add_(1))


@pytest.mark.parametrize(
    ("happen", "expected"),
    [
        (in_order, {}),
        (lost, {"microbatches lost": 1}),
        (lost_at_the_end, {"microbatches lost": 3}),
        (repeated, {"microbatches repeated": 1}),
        (one_too_many, {"microbatches repeated": 1}),
        (torn, {"microbatches torn": 1}),
        (torn_array, {"microbatches torn": 1}),
        (torn_while_held, {"microbatches torn": 1}),
        (of_another_epoch, {"microbatches lost": 1}),
        (with_other_random_numbers, {"random numbers that differ": 1}),
    ],
)
def test_what_is_wrong_with_microbatches_is_counted(happen, expected):
    checked = Checked()
    try:
        happen(checked)
    except OutOfStepError:
        assert any(checked.counts.wrong.values())
    assert +Counter(checked.counts.wrong) == Counter(expected)
    assert len(checked.counts.reports) == len(expected)


def test_a_pass_begun_again_begins_where_it_had_begun():
    checked = Checked()
    checked.deliver(0, 1, 2)
    checked.stream.resume()
    checked.deliver(3, 4)
    checked.stream.begin_again()
    checked.deliver(3, 4)
    checked.stream.begin(0)
    checked.deliver(0)
    assert checked.counts.is_good


@pytest.fixture(autouse=True)
def shm(tmp_path, monkeypatch) -> Path:
    """A folder in place of /dev/shm, where everybody on this machine makes files."""
    monkeypatch.setattr(left, "SHM", tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def family(monkeypatch):
    """This process and its own in place of the session, in which those of other tests may end."""

    def living():
        process = psutil.Process()
        family = [process, *process.children(recursive=True)]
        return frozenset(p.pid for p in family if p.status() != psutil.STATUS_ZOMBIE)

    monkeypatch.setattr(leaks, "_session", living)


def looked(before: Usage) -> Counts:
    counts = Counts()
    look_for_leaks(before, counts, patience_s=0.2)
    assert counts.happened["looks for leaks"] == 1
    return counts


def test_nothing_is_no_leak():
    gc.collect()
    assert looked(Usage.now()).is_good


def test_a_process_is_a_leak():
    before = Usage.now()
    with subprocess.Popen(["sleep", "100"]) as process:
        wrong = looked(before).wrong
        process.kill()
    assert +Counter(wrong) == Counter({"processes leaked": 1})


def test_descriptors_are_a_leak():
    gc.collect()
    before = Usage.now()
    with tempfile.TemporaryFile(), tempfile.TemporaryFile():
        wrong = looked(before).wrong
    assert +Counter(wrong) == Counter({"descriptors leaked": 2})


def test_a_ring_is_a_leak():
    gc.collect()
    before = Usage.now()
    ring = _core.Ring.create(4, 1 << 20)
    wrong = looked(before).wrong
    nbytes = os.fstat(ring.fd).st_blocks * 512
    assert nbytes > 0
    # Its memfd and its eventfd.
    expected = {"bytes of shared memory leaked": nbytes, "descriptors leaked": 2}
    assert +Counter(wrong) == Counter(expected)


@pytest.mark.parametrize(
    "name",
    ["soak_test", f"torch_{os.getpid()}_1_2", "torch_4194303_1_2"],
    ids=["of no worker", "of the living", "of a stranger"],
)
def test_a_file_that_no_dead_worker_made_is_a_leak(shm, name):
    with left.known_by_name():
        left.note_worker()  # this process, which is alive
        before = Usage.now()
        (shm / name).touch()
        assert +Counter(looked(before).wrong) == Counter({"files in /dev/shm leaked": 1})


def test_what_killed_workers_have_left_is_told_apart_and_removed(shm):
    with left.known_by_name():
        worker = multiprocessing.get_context("fork").Process(target=left.note_worker)
        worker.start()
        worker.join()
        semaphore = multiprocessing.get_context("spawn").Semaphore()  # has a name while it lives
        before = Usage.now()
        names = [
            f"torch_{worker.pid}_1_2",
            f"torch_{worker.pid}_1_3",
            semaphore._semlock.name.replace("/", "sem."),
            "sem.qgjlyW",  # glibc's, before it has its name
            "sem.of_somebody_else",
        ]
        for name in names:
            (shm / name).touch()
            os.utime(shm / name, (0, 0))  # a long time ago
        counts = looked(before)
        del semaphore
    assert counts.is_good
    assert counts.happened["files that torch left"] == 2
    assert counts.happened["semaphores that multiprocessing left"] == 2
    assert [path.name for path in shm.iterdir()] == ["sem.of_somebody_else"]


def test_a_half_made_semaphore_is_waited_for(shm):
    before = Usage.now()
    (shm / "sem.IbR4kq").touch()
    counts = Counts()
    look_for_leaks(before, counts, patience_s=60)
    assert counts.is_good
    assert counts.happened["semaphores that multiprocessing left"] == 1
    assert list(shm.iterdir()) == []


def test_a_trainer_that_ends_by_itself_is_counted(monkeypatch, wait_until):
    monkeypatch.setattr(trainers, "_train", divmod)  # a TypeError
    counts = Counts()
    trainer = trainers.DoomedTrainer(random.Random(0), counts)
    wait_until(lambda: not trainer._process.is_alive())
    trainer.kill()
    assert +Counter(counts.wrong) == Counter({"trainers that failed": 1})
    assert counts.happened["trainers killed"] == 0


def test_every_card_of_a_deck_comes_before_any_comes_again():
    deck = Deck(range(7), random.Random(0))
    for _ in range(3):
        assert sorted(deck.draw() for _ in range(7)) == list(range(7))
