"""Microbatches before they are asked for: `prepare()`, and what `iter()` starts."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from fkat.data import DictDataLoader, ShardedDataLoader, ShmDataLoader
from fkat.data.samplers.strategies import RoundRobin, Weighted
from tests.ahead import await_activity, await_ahead, pids
from tests.shards import names_of
from tests.who_made_it import who_made_it

# torch's word about more workers than this machine has cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

FORK = {"multiprocessing_context": "fork"}
LENGTH = 5


class Numbered(Dataset):
    """Epoch e is 10 e + 0..LENGTH."""

    epoch = 0

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return torch.tensor(10 * self.epoch + index)

    def set_epoch(self, epoch):
        self.epoch = epoch


def numbered(**options):
    return DataLoader(Numbered(), batch_size=None, **options)


def stream():
    """The same of no known length: the loader learns of an epoch's end by asking for more."""
    return (torch.tensor(i) for i in range(LENGTH))


def as_dicts():
    return DataLoader(Numbered(), batch_size=None, collate_fn=lambda number: {"x": number})


def of_shard(shard):
    return numbered()


def single(factory=numbered, num_ahead=2, **options):
    return ShmDataLoader(0, factory, num_ahead, **FORK, **options)


def sharded():
    return ShardedDataLoader(0, names_of([1, 2]), of_shard, 2, 2, **FORK)


def mixture():
    return DictDataLoader({"a": single(as_dicts), "b": single(as_dicts)}, RoundRobin(["a", "b"]))


def rest(loader):
    """What is left of the epoch, by `next` alone."""
    return [int(_number(m)) for m in iter(loader.__next__, None)]


def _number(microbatch):
    return microbatch["x"] if isinstance(microbatch, dict) else microbatch


LOADERS = [(single, 1), (sharded, 2), (mixture, 2)]
of_every_kind = pytest.mark.parametrize(
    ("new", "num_producers"), LOADERS, ids=["single", "sharded", "mixture"]
)


@of_every_kind
@pytest.mark.parametrize("start", ["prepare", "__iter__"])
def test_the_first_microbatches_are_made_before_they_are_asked_for(new, num_producers, start):
    loader = new()
    assert pids(loader) == []
    state = loader.state_dict()
    getattr(loader, start)()
    await_ahead(loader, [2] * num_producers)
    before = pids(loader)
    assert loader.state_dict() == state
    assert loader.stats().num_microbatches == 0
    undisturbed = new()
    assert rest(iter(loader)) == rest(undisturbed)
    assert pids(loader) == before
    loader.teardown()
    undisturbed.teardown()


@of_every_kind
def test_it_may_be_called_at_any_time(new, num_producers):
    loader, undisturbed = new(), new()
    found = []
    for _ in range(2):
        loader.prepare()
        loader.prepare()
        for microbatch in loader:
            found.append(int(_number(microbatch)))
            loader.prepare()
        assert rest(loader) == []  # the epoch is over until iter() says otherwise
    loader.prepare()
    assert found == [int(_number(m)) for _ in range(2) for m in undisturbed]
    assert loader.state_dict() == undisturbed.state_dict()
    loader.teardown()
    undisturbed.teardown()


@of_every_kind
def test_between_epochs_it_makes_those_of_the_next(new, num_producers):
    loader, undisturbed = new(), new()
    for epoch in range(3):
        assert rest(iter(loader)) == rest(iter(undisturbed))
        state, before = loader.state_dict(), pids(loader)
        assert state["epoch"] == epoch + 1
        loader.prepare()
        await_ahead(loader, [2] * num_producers)
        assert loader.state_dict() == state
        assert pids(loader) == before
    loader.teardown()
    undisturbed.teardown()


class Noted(Numbered):
    """Notes what it makes."""

    def __init__(self, path):
        self.path = path

    def __getitem__(self, index):
        with self.path.open("a") as file:
            file.write(f"{self.epoch} ")
        return super().__getitem__(index)


def test_iter_goes_on_with_what_was_made_ahead(tmp_path):
    path = tmp_path / "epochs"
    loader = single(lambda: DataLoader(Noted(path), batch_size=None))
    for _ in range(3):
        loader.prepare()
        await_ahead(loader, [2])
        assert len(loader) == LENGTH
        assert len(rest(iter(loader))) == LENGTH
    loader.teardown()
    assert path.read_text().split() == LENGTH * ["0"] + LENGTH * ["1"] + LENGTH * ["2"]


def test_behind_the_last_microbatch_the_loop_ends_nevertheless():
    loader = single()
    found = []
    for microbatch in loader:
        found.append(int(microbatch))
        if len(found) == LENGTH:
            loader.prepare()
            await_ahead(loader, [2])
    assert found == list(range(LENGTH))
    assert rest(iter(loader)) == [10 + i for i in range(LENGTH)]
    loader.teardown()


def test_where_the_end_is_not_known_the_next_epoch_is_begun_once_it_is():
    loader = single(stream)
    for _ in range(LENGTH):
        next(loader)
    loader.prepare()
    assert rest(loader) == []
    loader.prepare()
    await_ahead(loader, [2])
    assert rest(iter(loader)) == list(range(LENGTH))
    loader.teardown()


@pytest.mark.parametrize("is_prepared_anew", [False, True])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_that_was_set_since_is_begun_instead(epoch, is_prepared_anew):
    loader = single()
    rest(loader)
    loader.prepare()
    await_ahead(loader, [2])
    loader.set_epoch(epoch)
    if is_prepared_anew:
        loader.prepare()
    assert rest(iter(loader)) == [10 * epoch + i for i in range(LENGTH)]
    assert loader.state_dict()["epoch"] == epoch + 1
    loader.teardown()


def test_an_epoch_that_is_set_before_the_first_is_begun():
    loader = single()
    loader.prepare()
    await_ahead(loader, [2])
    loader.set_epoch(3)
    loader.prepare()
    assert rest(loader) == [30 + i for i in range(LENGTH)]
    loader.teardown()


@of_every_kind
@pytest.mark.parametrize("num_taken", [0, 3])
def test_a_state_that_is_loaded_since_is_where_it_goes_on(new, num_producers, num_taken):
    begun, loader = new(), new()
    for _ in range(num_taken):
        next(begun)
    loader.prepare()
    loader.load_state_dict(begun.state_dict())
    loader.prepare()
    assert len(pids(loader)) == num_producers
    assert rest(iter(loader)) == rest(begun)
    loader.teardown()
    begun.teardown()


def test_a_state_within_the_epoch_holds_when_that_epoch_is_prepared_again():
    loader = single()
    begun = [int(next(loader)) for _ in range(2)]
    loader.load_state_dict(loader.state_dict())
    for _ in range(2):
        assert begun + rest(loader) == list(range(LENGTH))
        loader.set_epoch(0)
        loader.prepare()
        iter(loader)
    loader.teardown()


@pytest.mark.parametrize("num_taken", [0, 3, LENGTH])
def test_a_producer_that_is_killed_meanwhile_changes_nothing(num_taken):
    loader = single()
    found = [int(next(loader)) for _ in range(num_taken)]
    loader.prepare()
    await_ahead(loader, [2])
    os.kill(pids(loader)[0], signal.SIGKILL)
    found += rest(loader)
    assert found == list(range(LENGTH))
    loader.prepare()
    assert rest(iter(loader)) == [10 + i for i in range(LENGTH)]
    assert loader.stats().num_restarts == 1
    loader.teardown()


@pytest.mark.parametrize("num_ahead", [0, 3])
def test_no_more_is_made_than_may_be_ahead(num_ahead):
    loader = single(num_ahead=num_ahead)
    loader.prepare()
    await_activity(loader, "awaiting grant")
    await_ahead(loader, [num_ahead])
    assert rest(loader) == list(range(LENGTH))
    loader.teardown()


def test_all_workers_of_a_dataloader_are_started():
    dataloader = who_made_it(3, shuffle=False)
    loader = ShmDataLoader.from_dataloader(dataloader, num_microbatch_prefetches=3)
    loader.prepare()
    await_ahead(loader, [1, 1, 1])
    assert [int(who[0]) for _, who, _ in loader] == [0, 1, 2, 0, 1, 2, 0]
    loader.prepare()
    await_ahead(loader, [1, 1, 1])
    loader.teardown()


def test_workers_that_only_the_factory_knows_are_started_from_the_second_epoch_on():
    loader = single(partial(who_made_it, 3, shuffle=False), 3)
    loader.prepare()
    await_ahead(loader, [3])  # the first one, which alone can tell
    assert [int(who[0]) for _, who, _ in loader] == [0, 1, 2, 0, 1, 2, 0]
    loader.prepare()
    await_ahead(loader, [1, 1, 1])
    loader.teardown()


def failing():
    raise OSError("no such data")


def test_an_error_of_the_factory_is_raised_by_next():
    for _ in range(2):
        loader = single(failing)
        for _ in range(2):
            loader.prepare()
            iter(loader)
            with pytest.raises(OSError, match="no such data"):
                next(loader)
            loader.prepare()
            with pytest.raises(RuntimeError, match="has failed"):
                next(loader)  # until iter() begins it again
        loader.teardown()


def test_a_producer_that_cannot_be_started_is_an_error_of_next():
    loader = ShmDataLoader(0, lambda: numbered(), multiprocessing_context="spawn")
    loader.prepare()
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        next(iter(loader))


@of_every_kind
def test_what_was_prepared_and_never_used_is_torn_down(new, num_producers):
    loader = new()
    for _ in range(2):
        loader.prepare()
        assert len(pids(loader)) == num_producers
        loader.teardown()
        assert pids(loader) == []
    rest(iter(loader))
    for _ in range(2):
        loader.prepare()
        assert len(pids(loader)) == num_producers
        loader.teardown()
        assert pids(loader) == []
    loader.prepare()
    del loader  # the fixture sees that nothing is left


def test_a_mixture_starts_those_that_it_draws():
    children = {"a": single(as_dicts), "never": single(as_dicts)}
    loader = DictDataLoader(children, Weighted({"a": 1.0, "never": 0.0}))
    loader.prepare()
    for _ in range(2):
        assert len(list(loader)) == LENGTH
    assert pids(children["never"]) == []
    loader.teardown()
    assert pids(loader) == []


def test_in_the_calling_thread_nothing_is_made_ahead():
    loader = ShmDataLoader(0, failing, multiprocessing=False)
    loader.prepare()
    iter(loader)
    assert loader._feed is None
    with pytest.raises(OSError, match="no such data"):
        next(loader)
