"""What a `ShardedDataLoader` does with shards that cannot be read, and with bad arguments."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data.errors import ProducerDiedError
from fkat.data.sharded import DistributedDataParallelShardSampler, ShardedDataLoader
from tests.shards import (
    OpenShard,
    epochs_of,
    ids_of,
    names_of,
    new_loader,
    plain,
    through_a_checkpoint,
)

BOTH = pytest.mark.parametrize("multiprocessing", [True, False], ids=["ring", "in-process"])
PREFETCHES = pytest.mark.parametrize("num_shard_prefetches", [0, 1, 3])
SHARDS = names_of([4, 4, 4, 4])


class CustomError(Exception):
    """An error of the user's own, made of more than a text."""

    def __init__(self, code, detail):
        super().__init__(code, detail)
        self.code = code


def make(error):
    kind, *arguments = error
    return kind(*arguments)


class Failing(Dataset):
    def __init__(self, shard, index, error):
        self.ids = ids_of(shard)
        self.index = index
        self.error = error

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        if index == self.index:
            raise make(self.error)
        return self.ids[index], torch.zeros(1)


@dataclass(frozen=True)
class FailIn:
    """Opens shards, one of which fails: where it is opened, or at a sample of it."""

    number: int
    index: int | None
    error: tuple = (ValueError, "damaged")

    def __call__(self, shard):
        is_it = shard == SHARDS[self.number]
        if is_it and self.index is None:
            raise make(self.error)
        return DataLoader(Failing(shard, self.index if is_it else -1, self.error), 2)


def ids_until_an_error(loader):
    """What comes before it, and the error."""
    ids = []
    try:
        for microbatch in loader:
            ids.append(microbatch[0].tolist())
    except Exception as error:
        return ids, error
    pytest.fail("there was no error")


@BOTH
@PREFETCHES
@pytest.mark.parametrize(("index", "before"), [(None, 0), (0, 0), (2, 1), (3, 1)])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_an_error_comes_after_the_microbatches_before_it_and_names_the_shard(
    number, index, before, num_shard_prefetches, multiprocessing
):
    loader = new_loader(
        SHARDS, FailIn(number, index), num_shard_prefetches, multiprocessing=multiprocessing
    )
    ids, error = ids_until_an_error(loader)
    pairs = [ids_of(shard)[i : i + 2] for shard in SHARDS for i in (0, 2)]
    assert ids == pairs[: 2 * number + before]
    assert type(error) is ValueError
    assert f"in shard {SHARDS[number]!r}: damaged" in str(error)


@BOTH
@pytest.mark.parametrize(
    "error",
    [(KeyError, "column"), (FileNotFoundError, 2, "gone", "a.bin"), (CustomError, 7, "x")],
    ids=lambda error: error[0].__name__,
)
def test_an_error_keeps_its_type_and_its_attributes(error, multiprocessing):
    loader = new_loader(SHARDS, FailIn(1, 0, error), 2, multiprocessing=multiprocessing)
    _, caught = ids_until_an_error(loader)
    assert isinstance(caught, error[0])
    assert f"in shard {SHARDS[1]!r}" in str(caught)
    names = ("errno", "strerror", "filename", "code")
    wanted = [getattr(make(error), name, None) for name in names]
    assert [getattr(caught, name, None) for name in names] == wanted


@BOTH
@PREFETCHES
def test_an_epoch_that_failed_is_begun_again_by_iter(num_shard_prefetches, multiprocessing):
    factory = FailIn(2, 0)
    loader = new_loader(SHARDS, factory, num_shard_prefetches, multiprocessing=multiprocessing)
    tries = [ids_until_an_error(loader)[0] for _ in range(3)]
    assert tries == [[[0, 1], [2, 3], [100, 101], [102, 103]]] * 3
    assert loader.state_dict()["epoch"] == 0


class File(Dataset):
    """Eight numbers in a file, read one at a time."""

    def __init__(self, path):
        self.path = path
        self.count = Path(path).stat().st_size // 8

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        number = np.fromfile(self.path, np.int64, count=1, offset=8 * index)
        return int(number[0]), torch.zeros(1)


def open_file(path):
    return DataLoader(File(path), 2)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.bin" for number in range(4)]
    for number, path in enumerate(paths):
        (100 * number + np.arange(8)).tofile(path)
    return [str(path) for path in paths]


@BOTH
def test_a_file_that_vanishes_in_the_middle_of_an_epoch_is_named(files, multiprocessing):
    loader = new_loader(files, open_file, 0, multiprocessing=multiprocessing)
    first = next(loader)[0].tolist()
    Path(files[2]).unlink()
    with pytest.raises(FileNotFoundError, match=r"in shard '.*2\.bin'"):
        [next(loader) for _ in range(8)]
    assert first == [0, 1]
    assert loader.state_dict()["microbatch"] == 8


@BOTH
def test_a_file_that_is_truncated_in_the_middle_of_it_is_named(files, multiprocessing):
    loader = new_loader(files, open_file, 0, 0, multiprocessing=multiprocessing)
    next(loader)
    os.truncate(files[0], 40)
    ids = [next(loader)[0].tolist()]
    with pytest.raises(IndexError, match=r"in shard '.*0\.bin'"):
        next(loader)
    assert ids == [[2, 3]]


@BOTH
@PREFETCHES
@pytest.mark.parametrize(("index", "left"), [(None, []), (0, []), (2, [[100, 101]])])
def test_a_shard_with_an_error_is_skipped_if_so_wished(
    index, left, num_shard_prefetches, multiprocessing
):
    options = {"multiprocessing": multiprocessing, "on_shard_error": "skip"}
    loader = new_loader(SHARDS, FailIn(1, index), num_shard_prefetches, **options)
    expected = [[0, 1], [2, 3], *left, [200, 201], [202, 203], [300, 301], [302, 303]]
    for epoch in range(2):
        with pytest.warns(UserWarning, match=rf"skipped.*ValueError in shard '{SHARDS[1]}'"):
            assert [ids for ids, _ in epochs_of(loader, 1)[0]] == expected
        assert loader.stats().num_skipped_shards == epoch + 1
        assert loader.stats().num_microbatches == len(expected) * (epoch + 1)


@pytest.mark.filterwarnings("ignore:skipped")
@PREFETCHES
@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("index", [None, 0, 2])
def test_a_resume_after_a_skipped_shard(index, number, num_shard_prefetches):
    def new():
        factory = FailIn(number, index)
        return new_loader(SHARDS, factory, num_shard_prefetches, on_shard_error="skip")

    loader = new()
    states, seen = [loader.state_dict()], []
    for microbatch in loader:
        seen.append(microbatch[0].tolist())
        states.append(loader.state_dict())
    for done, state in enumerate(states[:-1]):
        resumed = new()
        resumed.load_state_dict(through_a_checkpoint(state))
        assert [m[0].tolist() for m in resumed] == seen[done:]


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_other_ranks_can_resume_though_a_shard_cannot_be_opened(count):
    def ranks(dp_size, state):
        samplers = [
            DistributedDataParallelShardSampler(SHARDS, dp_size, rank) for rank in range(dp_size)
        ]
        loaders = [new_loader(s, FailIn(2, None), 1, on_shard_error="skip") for s in samplers]
        for loader in loaders:
            loader.load_state_dict(state)
        return loaders

    two = ranks(2, {})
    seen = [m[0].tolist() for _ in range(count) for loader in two if (m := next(loader, None))]
    [one] = ranks(1, two[0].state_dict())
    seen += [m[0].tolist() for m in one]
    pairs = [ids_of(SHARDS[number])[i : i + 2] for number in (0, 1, 3) for i in (0, 2)]
    assert sorted(seen) == pairs


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_producer_is_reported_and_nothing_is_left(victim):
    before = set(psutil.Process().children())
    loader = new_loader(names_of([40] * 6), OpenShard(), 3, 1, multiprocessing=True, max_restarts=0)
    next(loader)
    producers = sorted(set(psutil.Process().children()) - before, key=lambda child: child.pid)
    producers[victim].send_signal(signal.SIGKILL)
    with pytest.raises(ProducerDiedError) as caught:
        list(iter(lambda: plain(next(loader)), None))
    assert caught.value.pid == producers[victim].pid
    assert caught.value.exit_code == -signal.SIGKILL
    assert set(psutil.Process().children()) == before
    assert len(epochs_of(loader, 1)[0]) == 120


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"seed": 1.5}, TypeError, "seed"),
        ({"shard_sampler": "data/a"}, TypeError, "shard_sampler"),
        ({"shard_sampler": 7}, TypeError, "shard_sampler"),
        ({"shard_sampler": [1, 2]}, TypeError, "shard_sampler"),
        ({"shard_sampler": [[]]}, TypeError, "shard_sampler"),
        ({"dataloader_factory": None}, TypeError, "dataloader_factory"),
        ({"num_shard_prefetches": -1}, ValueError, "num_shard_prefetches"),
        ({"num_shard_prefetches": True}, TypeError, "num_shard_prefetches"),
        ({"num_shard_prefetches": 10**6}, ValueError, "num_shard_prefetches"),
        ({"num_microbatch_prefetches": -2}, ValueError, "num_microbatch_prefetches"),
        ({"dp_rank": -1}, ValueError, "dp_rank"),
        ({"device": 1.5}, TypeError, "device"),
        ({"multiprocessing": 1}, TypeError, "multiprocessing"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"on_shard_error": "ignore"}, ValueError, r"on_shard_error.*'raise'.*'skip'.*'ignore'"),
        ({"on_shard_error": None}, ValueError, "on_shard_error"),
    ],
    ids=str,
)
def test_a_wrong_argument_fails_at_once_and_by_name(wrong, error, words):
    right = {"seed": 0, "shard_sampler": SHARDS, "dataloader_factory": OpenShard()}
    with pytest.raises(error, match=words):
        ShardedDataLoader(**{**right, **wrong})


@BOTH
def test_a_factory_that_returns_no_iterable_is_told_so(multiprocessing):
    loader = new_loader(SHARDS, ids_of_first, 0, multiprocessing=multiprocessing)
    with pytest.raises(TypeError, match=r"in shard 'data/s-0-4'.*iterable.*int"):
        next(loader)


def ids_of_first(shard):
    return ids_of(shard)[0]
