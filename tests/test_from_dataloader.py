"""`ShmDataLoader.from_dataloader`: the one-line switch from a `DataLoader` that exists."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from fkat.data import ShmDataLoader
from fkat.data.errors import StalledError
from tests.sources import NOT_OURS
from tests.who_made_it import NUM_BATCHES, plain, who_made_it

# torch's word about more workers than this machine has cores.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings(NOT_OURS),
]

FORK = {"multiprocessing_context": "fork"}
HERE = {"multiprocessing": False}
from_dataloader = ShmDataLoader.from_dataloader


class Squares(Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, index):
        return torch.tensor(index * index)


def squares(num_workers=0, shuffle=True, **options):
    generator = torch.Generator().manual_seed(3)
    return DataLoader(
        Squares(), 2, shuffle, num_workers=num_workers, generator=generator, **options
    )


def epochs(loader, count=2):
    return [[microbatch.tolist() for microbatch in loader] for _ in range(count)]


@pytest.mark.parametrize("options", [FORK, HERE], ids=["fork", "here"])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_epochs_are_those_of_the_dataloader(shuffle, num_workers, options):
    dataloader = squares(num_workers, shuffle)
    loader = from_dataloader(dataloader, **options)
    assert len(loader) == len(dataloader)
    assert epochs(loader) == epochs(dataloader)
    loader.teardown()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_start_methods_of_the_dataloader_are_taken_over(method):
    dataloader = squares(2, multiprocessing_context=method)
    loader = from_dataloader(dataloader)
    assert loader._options.context.get_start_method() == method
    assert epochs(loader) == epochs(squares())
    loader.teardown()


def test_without_a_generator_the_seed_gives_the_order():
    dataloader = DataLoader(Squares(), 2, shuffle=True)
    found = {}
    for seed in (0, 1):
        with_factory = ShmDataLoader(seed, lambda: DataLoader(Squares(), 2, shuffle=True))
        loader = from_dataloader(dataloader, seed=seed)
        found[seed] = epochs(loader)
        assert found[seed] == epochs(with_factory)
        loader.teardown()
        with_factory.teardown()
    assert found[0] != found[1]
    loader = from_dataloader(dataloader)
    assert epochs(loader) == found[0]
    loader.teardown()


@pytest.mark.parametrize("num_taken", [0, 1, 5, 6, 8])
def test_it_is_resumed_where_it_stood(num_taken):
    expected = [m for epoch in epochs(squares(2), 3) for m in epoch]
    loader = from_dataloader(squares(2))
    found = []
    while len(found) < num_taken:
        found += [m.tolist() for _, m in zip(range(num_taken - len(found)), loader, strict=False)]
    resumed = from_dataloader(squares(2))
    resumed.load_state_dict(loader.state_dict())
    found += [m.tolist() for _ in range(3) for m in resumed]
    assert found[: len(expected)] == expected
    loader.teardown()
    resumed.teardown()


class Counted(Dataset):
    """Samples say how often the dataset was built, and copied by a pickle or otherwise."""

    def __init__(self):
        self.num_built = 1

    def __setstate__(self, state):
        self.num_built = state["num_built"] + 1

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.num_built, get_worker_info().id


def test_forked_producers_share_the_dataset_that_was_built_once():
    loader = from_dataloader(DataLoader(Counted(), None, num_workers=3), **FORK)
    assert list(loader) == [[1, i % 3] for i in range(6)]
    loader.teardown()


def test_as_many_producers_as_workers_start_together():
    loader = from_dataloader(who_made_it(3, shuffle=False))
    assert len(loader) == NUM_BATCHES
    assert len(loader._feed.pids) == 3  # the first has told us nothing yet
    assert [plain(m) for m in loader] == [plain(m) for m in who_made_it(3, shuffle=False)]
    assert len(loader._feed.pids) == 3
    loader.teardown()


@pytest.mark.parametrize("options", [FORK, HERE], ids=["fork", "here"])
def test_the_dataloader_is_left_as_it_is(options):
    dataloader = squares(pin_memory=True)
    attributes = dict(vars(dataloader))
    sampler = dict(vars(dataloader.sampler))
    state = dataloader.generator.get_state()
    loader = from_dataloader(dataloader, **options)
    epochs(loader)
    loader.teardown()
    assert [
        name for name in vars(dataloader) if vars(dataloader)[name] is not attributes[name]
    ] == []
    assert vars(dataloader.sampler) == sampler
    assert torch.equal(dataloader.generator.get_state(), state)


@pytest.mark.parametrize("options", [FORK, HERE], ids=["fork", "here"])
def test_workers_that_it_has_running_stay_its_own(options):
    dataloader = squares(2, persistent_workers=True)
    undisturbed = squares(2, persistent_workers=True)
    assert epochs(dataloader, 1) == epochs(undisturbed, 1)
    workers = [worker.pid for worker in dataloader._iterator._workers]
    # Another one, whose generator has drawn one epoch.
    another = DataLoader(Squares(), 2, shuffle=True, generator=torch.Generator())
    another.generator.set_state(dataloader.generator.get_state())
    loader = from_dataloader(dataloader, **options)
    assert epochs(loader, 1) == epochs(another, 1)
    loader.teardown()
    assert epochs(dataloader) == epochs(undisturbed)
    assert [worker.pid for worker in dataloader._iterator._workers] == workers
    dataloader._iterator._shutdown_workers()
    undisturbed._iterator._shutdown_workers()


@pytest.mark.parametrize("options", [FORK, HERE], ids=["fork", "here"])
def test_persistent_workers_draw_from_the_generator_what_they_draw_in_the_dataloader(options):
    dataloader = squares(2, persistent_workers=True)
    loader = from_dataloader(dataloader, **options)
    expected = epochs(dataloader, 3)
    assert epochs(loader, 3) == expected
    loader.set_epoch(1)
    assert epochs(loader) == expected[1:]
    loader.teardown()
    dataloader._iterator._shutdown_workers()


class Numbered(IterableDataset):
    def __iter__(self):
        return iter(range(5))


def test_workers_of_a_stream_that_are_running_are_not_asked_by_us():
    options = {"num_workers": 1, "persistent_workers": True}
    dataloader = DataLoader(Numbered(), None, **options)
    assert list(dataloader) == [0, 1, 2, 3, 4]
    loader = from_dataloader(dataloader)
    assert list(loader) == list(loader) == [0, 1, 2, 3, 4]
    loader.teardown()
    assert list(dataloader) == [0, 1, 2, 3, 4]
    dataloader._iterator._shutdown_workers()


def test_a_producer_that_is_started_later_finds_the_generator_as_it_was():
    dataloader = squares(2)
    expected = epochs(squares(2), 1)[0]
    loader = from_dataloader(dataloader, num_microbatch_prefetches=0)
    found = [next(loader).tolist()]
    epochs(dataloader)
    os.kill(loader._feed.pids[1], signal.SIGKILL)
    found += [microbatch.tolist() for microbatch in iter(loader.__next__, None)]
    assert found == expected
    assert loader.stats().num_restarts == 1
    loader.teardown()


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        ({}, {}, -1),
        ({"num_workers": 3}, {}, 6),
        ({"num_workers": 2, "prefetch_factor": 5}, {}, 10),
        ({"num_workers": 2, "prefetch_factor": 3000}, {}, 4000),
        ({"num_workers": 2, "prefetch_factor": 5}, {"num_microbatch_prefetches": 1}, 1),
    ],
)
def test_prefetch_factor_is_that_of_the_dataloader_unless_we_are_told(arguments, options, expected):
    loader = from_dataloader(DataLoader(Squares(), **arguments), **options)
    assert loader._options.num_prefetches == expected


@pytest.mark.parametrize(("options", "method"), [({}, "spawn"), (FORK, "fork")])
def test_the_start_method_is_that_of_the_dataloader_unless_we_are_told(options, method):
    dataloader = DataLoader(Squares(), num_workers=1, multiprocessing_context="spawn")
    assert from_dataloader(dataloader, **options)._options.context.get_start_method() == method


class Stuck(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        threading.Event().wait()


@pytest.mark.parametrize(("timeout", "options"), [(0.5, {}), (600, {"timeout": 0.5})])
def test_the_timeout_is_that_of_the_dataloader_unless_we_are_told(timeout, options):
    loader = from_dataloader(DataLoader(Stuck(), num_workers=1, timeout=timeout), **options)
    with pytest.raises(StalledError, match=r"timeout=0\.5"):
        next(loader)
    loader.teardown()


def note(path, worker_id):
    with path.open("a") as file:
        file.write(f"{worker_id}\n")


@pytest.mark.parametrize(("is_persistent", "expected"), [(False, "0011"), (True, "01")])
def test_worker_init_fn_and_persistent_workers_are_heeded(tmp_path, is_persistent, expected):
    path = tmp_path / "calls"
    options = {"worker_init_fn": partial(note, path), "persistent_workers": is_persistent}
    loader = from_dataloader(who_made_it(2, **options))
    assert [len(list(loader)) for _ in range(2)] == [NUM_BATCHES, NUM_BATCHES]
    loader.teardown()
    assert "".join(sorted(path.read_text().split())) == expected


class Doubling(DataLoader):
    def __iter__(self):
        return (2 * microbatch for microbatch in super().__iter__())


@pytest.mark.parametrize("kind", [Doubling, StatefulDataLoader])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_is_derived_from_a_dataloader_will_do(kind, num_workers):
    dataloader = kind(Squares(), 2, num_workers=num_workers)
    loader = from_dataloader(dataloader)
    assert epochs(loader) == epochs(dataloader)
    loader.teardown()


@pytest.mark.parametrize("wrong", [None, [1, 2], Squares(), squares])
def test_what_is_no_dataloader_is_refused(wrong):
    with pytest.raises(TypeError, match=r"must be a torch DataLoader, got a .*dataloader_factory"):
        from_dataloader(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_worker": 2}, "num_worker"),
        ({"dataloader_factory": squares}, "dataloader_factory"),
        ({"seed": "0"}, "seed must be an int"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(TypeError, match=message):
        from_dataloader(squares(), **options)


class Locked(Squares):
    def __init__(self):
        self.lock = threading.Lock()


def test_what_cannot_be_sent_to_a_producer_is_named():
    loader = from_dataloader(DataLoader(Locked()), multiprocessing_context="spawn")
    with pytest.raises(TypeError, match=r"dataloader\.dataset\.lock .* cannot be sent"):
        next(loader)
    loader.teardown()


def test_a_dataset_that_cannot_be_copied_is_not_copied():
    for options in (FORK, HERE):
        loader = from_dataloader(DataLoader(Locked(), 2), **options)
        assert epochs(loader) == epochs(squares(shuffle=False))
        loader.teardown()


class LockedSampler(RandomSampler):
    def __init__(self, dataset):
        super().__init__(dataset)
        self.lock = threading.Lock()


def test_a_sampler_that_cannot_be_copied_is_refused_only_where_it_must_be():
    dataloader = DataLoader(Squares(), 2, sampler=LockedSampler(Squares()))
    loader = from_dataloader(dataloader, **FORK)
    assert len(list(loader)) == 6
    loader.teardown()
    loader = from_dataloader(dataloader, **HERE)
    with pytest.raises(TypeError, match=r"sampler of the DataLoader must be copied.*lock"):
        next(loader)
