"""N producers for ``num_workers=N`` when something goes wrong: an error in its place, no loss."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from fkat.data import ShmDataLoader
from fkat.data._transport import worker_feed
from tests.who_made_it import LENGTH, NUM_BATCHES, WhoMadeIt, plain, rest, who_made_it

# torch's word about more workers than this machine has cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Unseeded(Sampler):
    """Draws another order in each process."""

    def __init__(self):
        self.generator = np.random.default_rng()

    def __len__(self):
        return LENGTH

    def __iter__(self):
        return iter(self.generator.permutation(LENGTH).tolist())


def unseeded():
    return DataLoader(WhoMadeIt(), 1, sampler=Unseeded(), num_workers=2)


def test_a_sampler_that_differs_from_process_to_process_is_an_error_and_no_loss():
    loader = ShmDataLoader(0, unseeded)
    next(loader)
    with pytest.raises(RuntimeError, match=r"worker 1 of 2 drew other indices before microbatch 1"):
        next(loader)
    loader.teardown()


def fewer_the_next_time(folder):
    called = folder / "called"
    num_workers = 2 if called.exists() else 3
    called.touch()
    return who_made_it(num_workers)


def test_a_factory_that_changes_its_mind_is_an_error(tmp_path):
    loader = ShmDataLoader(0, partial(fewer_the_next_time, tmp_path))
    with pytest.raises(RuntimeError, match=r"num_workers=2 in producer 1, and with num_workers=3"):
        list(loader)
    loader.teardown()


@pytest.mark.parametrize("interrupted", [2, 3])
def test_an_interrupt_while_workers_are_started_loses_nothing(monkeypatch, interrupted):
    real, count = worker_feed.ProducerFeed, iter(range(1, 100))

    def fake(*arguments):
        if next(count) == interrupted:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(worker_feed, "ProducerFeed", fake)
    loader = ShmDataLoader(0, partial(who_made_it, 3))
    with pytest.raises(KeyboardInterrupt):
        next(loader)
    assert [int(who[0]) for _, who, _ in loader] == [0, 1, 2, 0, 1, 2, 0]
    assert len(loader._feed.pids) == 3
    loader.teardown()


def test_the_first_epoch_again_after_replacements_in_two_epochs():
    loader = ShmDataLoader(0, partial(who_made_it, 2), 0)
    expected = rest(loader)
    loader.set_epoch(0)
    for epoch, victim in enumerate([0, 1]):
        found = [plain(next(iter(loader)))]
        os.kill(loader._feed.pids[victim], signal.SIGKILL)
        assert len(found + rest(loader)) == NUM_BATCHES, epoch
    assert loader.stats().num_restarts == 2
    loader.set_epoch(0)
    assert [plain(microbatch) for microbatch in loader] == expected
    loader.teardown()


def fail_once(path, worker_id):
    if worker_id == 0 and not path.exists():
        path.touch()
        raise KeyError("not yet")
    get_worker_info().dataset.is_ready = True


class Prepared(WhoMadeIt):
    is_ready = False

    def __getitem__(self, index):
        assert self.is_ready
        return index


def prepared(path):
    options = {"num_workers": 2, "persistent_workers": True}
    return DataLoader(Prepared(), 4, worker_init_fn=partial(fail_once, path), **options)


def test_a_worker_init_fn_that_fails_is_called_again(tmp_path):
    loader = ShmDataLoader(0, partial(prepared, tmp_path / "failed"))
    with pytest.raises(KeyError, match="not yet"):
        next(loader)
    assert [microbatch.tolist() for microbatch in loader] == [
        list(range(begin, begin + 4)) for begin in range(0, LENGTH, 4)
    ]
    loader.teardown()


def test_the_budget_is_that_of_all_workers_and_the_error_says_so():
    loader = ShmDataLoader(0, partial(blobs, 4 << 20), memory_budget_nbytes=1 << 20)
    with pytest.raises(ValueError, match=r"256\.0 KiB for each of 4 workers; raise") as raised:
        next(loader)
    needed = int(str(raised.value).split("at least ")[1].split()[0])
    assert 16 << 20 <= needed < 17 << 20
    loader.teardown()
    loader = ShmDataLoader(0, partial(blobs, 4 << 20), memory_budget_nbytes=needed)
    assert [len(microbatch) for microbatch in loader] == [4 << 20] * 8
    loader.teardown()


class Blobs(Dataset):
    def __init__(self, nbytes):
        self.nbytes = nbytes

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.zeros(self.nbytes, dtype=torch.uint8)


def blobs(nbytes):
    return DataLoader(Blobs(nbytes), batch_size=None, num_workers=4)


def take_one_of_each(loader):
    for _ in range(4):
        next(loader)


def test_at_most_so_many_are_published_ahead_by_all(wait_until):
    loader = ShmDataLoader(0, partial(who_made_it, 4, batch_size=1), 8)
    next(loader)

    def unread():
        return [feed._ring.look().num_unread for feed in loader._feed._feeds]

    wait_until(lambda: unread()[1:] == [2, 2, 2])
    take_one_of_each(loader)
    while unread()[0] > 2:  # the first may have gone ahead before there were others
        take_one_of_each(loader)
    wait_until(lambda: unread() == [2, 2, 2, 2])
    loader.teardown()


def test_busy_workers_are_stopped_within_one_grace():
    loader = ShmDataLoader(0, partial(hanging, 6), 1)
    next(loader)
    time.sleep(0.5)
    pids = loader._feed.pids
    loader.teardown()
    assert not any(map(psutil.pid_exists, pids))


class Hanging(WhoMadeIt):
    def __getitem__(self, index):
        time.sleep(1_000_000 if index >= 1 else 0)
        return index


def hanging(num_workers):
    return DataLoader(Hanging(), batch_size=None, num_workers=num_workers)
