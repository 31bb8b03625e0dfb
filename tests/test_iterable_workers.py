"""An iterable dataset with ``num_workers=N``: N producers of ours, in torch's order."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from functools import partial

import psutil
import pytest
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tests.marks import MANY_WORKERS_AND_KEPT
from tests.sources import Augmented
from tests.streams import (
    EVEN,
    LAST_ALONE,
    MOSTLY_NOTHING,
    UNEVEN,
    Split,
    StatefulSplit,
    Unsplit,
    new,
    rest,
    split,
)

pytestmark = MANY_WORKERS_AND_KEPT


def without_random_numbers(microbatches):
    """Who made which samples."""
    return [[sample[:2] for sample in m] if isinstance(m[0], list) else m[:2] for m in microbatches]


STREAMS = {
    "even": partial(split, EVEN),
    "uneven": partial(split, UNEVEN),
    "the last one alone": partial(split, LAST_ALONE),
    "mostly nothing": partial(split, MOSTLY_NOTHING),
    "nothing at all": partial(split, [0, 0]),
    "one worker": partial(split, [5]),
    "in batches": partial(split, UNEVEN, 2),
    "in full batches": partial(split, UNEVEN, 2, drop_last=True),
    "no full batch of some": partial(split, [1, 4, 0], 3, drop_last=True),
    "persistent": partial(split, LAST_ALONE, persistent_workers=True),
    "with a state": partial(split, UNEVEN, 2, StatefulSplit),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_sequence_is_that_of_the_dataloader(name):
    expected = [without_random_numbers(STREAMS[name]()) for _ in range(2)]
    loader = new(STREAMS[name])
    assert [without_random_numbers(loader) for _ in range(2)] == expected
    loader.teardown()


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_dataset_that_does_not_split_comes_once_from_each(drop_last):
    def factory():
        return DataLoader(Unsplit(), 3, drop_last=drop_last, num_workers=2)

    loader = new(factory)
    assert len(loader) == len(factory())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's: more than its length
        expected = [microbatch.tolist() for microbatch in factory()]
    assert [microbatch.tolist() for microbatch in loader] == expected
    assert len(expected) == (4 if drop_last else 6)
    loader.teardown()


def test_each_worker_is_a_producer_without_children():
    loader = new(partial(split, UNEVEN))
    list(loader)
    assert len(set(loader._feed.pids)) == 3
    assert all(not psutil.Process(pid).children() for pid in loader._feed.pids)
    loader.teardown()


class Range(IterableDataset):
    """As in the documentation of torch: a range that `worker_init_fn` takes a part of."""

    def __init__(self):
        self.begin, self.end = 0, 12

    def __iter__(self):
        assert get_worker_info().dataset is self
        return iter(range(self.begin, self.end))


def take_a_part(worker_id):
    info = get_worker_info()
    assert worker_id == info.id
    span = (info.dataset.end - info.dataset.begin) // info.num_workers
    info.dataset.begin += info.id * span
    info.dataset.end = info.dataset.begin + span


def parts(persistent):
    options = {"worker_init_fn": take_a_part, "persistent_workers": persistent}
    return DataLoader(Range(), 2, num_workers=3, **options)


class Around(IterableDataset):
    """Reads another dataset, which is the one that is split."""

    def __init__(self):
        self.inner = Range()

    def __iter__(self):
        return iter(range(self.inner.begin, self.inner.end))


def take_a_part_of_the_inner_one(worker_id):
    info = get_worker_info()
    span = (info.dataset.inner.end - info.dataset.inner.begin) // info.num_workers
    info.dataset.inner.begin += worker_id * span
    info.dataset.inner.end = info.dataset.inner.begin + span


def parts_of_the_inner_one():
    return DataLoader(Around(), 2, num_workers=3, worker_init_fn=take_a_part_of_the_inner_one)


def parts_by_a_function_that_knows_the_dataset():
    dataset = Around()

    def take_a_part(worker_id):
        dataset.inner.begin += 4 * worker_id
        dataset.inner.end = dataset.inner.begin + 4

    return DataLoader(dataset, 2, num_workers=3, worker_init_fn=take_a_part)


PARTS = {
    "": partial(parts, False),
    "persistent": partial(parts, True),
    "of one inside": parts_of_the_inner_one,
    "that a function knows": parts_by_a_function_that_knows_the_dataset,
}


@pytest.mark.parametrize("factory", PARTS.values(), ids=PARTS)
def test_worker_init_fn_splits_the_dataset_once_in_each_epoch(factory):
    loader = new(factory)
    expected = [[0, 1], [4, 5], [8, 9], [2, 3], [6, 7], [10, 11]]
    for _ in range(3):
        assert [microbatch.tolist() for microbatch in loader] == expected
    assert [microbatch.tolist() for microbatch in factory()] == expected
    loader.teardown()


class Files(IterableDataset):
    """Remembers which file it reads, for its own collate function; cannot be copied."""

    def __init__(self):
        self.lock = threading.Lock()
        self.opened = "nothing"

    def __iter__(self):
        assert self.opened == "nothing"  # a new worker, in each epoch
        self.opened = f"file {get_worker_info().id}"
        yield from range(2)

    def collate(self, samples):
        return self.opened, samples


def files():
    dataset = Files()
    return DataLoader(dataset, 2, num_workers=2, collate_fn=dataset.collate)


def test_a_function_of_the_loader_sees_what_iterating_has_set():
    loader = new(files)
    expected = list(files())
    assert expected == [("file 0", [0, 1]), ("file 1", [0, 1])]
    assert [list(loader) for _ in range(3)] == [expected] * 3
    loader.teardown()


class Dealt(IterableDataset):
    """What a sampler would deal to the workers."""

    def __iter__(self):
        info = get_worker_info()
        for index in range(info.id, len(Augmented()), info.num_workers):
            yield Augmented()[index]


def test_random_numbers_are_those_of_the_same_microbatch_of_a_map_style_dataset():
    loader = new(partial(DataLoader, Dealt(), None, num_workers=3))
    by_index = new(partial(DataLoader, Augmented(), None))
    for _ in range(2):
        assert list(loader) == list(by_index)
    loader.teardown()
    by_index.teardown()


@pytest.mark.filterwarnings("ignore:.*are read again")
@pytest.mark.parametrize("dataset", [Split, StatefulSplit])
@pytest.mark.parametrize("num_taken", [0, 1, 5, 8])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_only_the_one_that_dies_is_started_again(victim, num_taken, dataset):
    factory = partial(split, UNEVEN, 1, dataset)
    loader = new(factory)
    expected = [*loader, *loader]
    loader.teardown()
    loader = new(factory, 0)
    list(loader)
    iter(loader)
    loader.set_epoch(0)
    found = [next(loader) for _ in range(num_taken)]
    before = loader._feed.pids
    os.kill(before[victim], signal.SIGKILL)
    found += rest(loader)
    found += loader
    assert found == expected
    assert loader.stats().num_restarts <= 1
    after = loader._feed.pids
    assert {number for number in range(3) if before[number] != after[number]} <= {victim}
    loader.teardown()


class Faulty(IterableDataset):
    def __iter__(self):
        yield get_worker_info().id
        if get_worker_info().id == 1:
            raise KeyError("no more here")
        yield 10


def test_an_error_comes_at_its_place_and_the_epoch_can_be_begun_again():
    loader = new(partial(DataLoader, Faulty(), None, num_workers=2))
    for _ in range(2):
        assert [next(loader) for _ in range(3)] == [0, 1, 10]
        with pytest.raises(KeyError, match="no more here"):
            next(loader)
        iter(loader)
    loader.teardown()
