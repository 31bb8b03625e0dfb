"""``in_order=False``: each microbatch when it is ready, none lost or repeated."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial

import pytest
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from fkat.data import ShmDataLoader
from fkat.data.errors import ResumeMismatchError, StalledError
from tests.marks import MANY_WORKERS_AND_KEPT
from tests.sources import Augmented

pytestmark = MANY_WORKERS_AND_KEPT

LENGTH = 10


def pass_through(gate):
    """Wait until somebody opens it."""
    while not gate.exists():
        time.sleep(0.01)


class Gated(Dataset):
    """Sample 0 is made when the gate is open."""

    def __init__(self, gate):
        self.gate = gate

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        if index == 0:
            pass_through(self.gate)
        return [index, *Augmented()[index][1:]]


class GatedStream(IterableDataset):
    """The same, split among workers."""

    def __init__(self, gate):
        self.samples = Gated(gate)

    def __iter__(self):
        info = get_worker_info()
        for index in range(info.id, LENGTH, info.num_workers):
            yield self.samples[index]


def gated(gate, dataset=Gated, num_workers=2, in_order=False, **options):
    options = {"batch_size": None, **options}
    return DataLoader(dataset(gate), num_workers=num_workers, in_order=in_order, **options)


@pytest.fixture(params=[Gated, GatedStream], ids=["map-style", "iterable"])
def dataset(request):
    return request.param


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "gate"


def new(factory, num_prefetches=8, **options):
    # In order these tests would wait for ever.
    options = {"timeout": 30, "multiprocessing_context": "fork", **options}
    return ShmDataLoader(3, factory, num_prefetches, **options)


def take(loader, count):
    return [next(loader) for _ in range(count)]


def rest(loader):
    return list(iter(loader.__next__, None))


def indices(microbatches):
    return [microbatch[0] for microbatch in microbatches]


def two_epochs_in_order(gate, dataset):
    gate.touch()
    loader = new(partial(gated, gate, dataset, in_order=True))
    epochs = [list(loader), list(loader)]
    loader.teardown()
    gate.unlink()
    return epochs


def test_a_slow_sample_holds_its_own_worker_only_and_each_microbatch_is_the_same(gate, dataset):
    expected = two_epochs_in_order(gate, dataset)
    loader = new(partial(gated, gate, dataset))
    early = take(loader, 5)
    assert indices(early) == [1, 3, 5, 7, 9]
    gate.touch()
    late = rest(loader)
    assert indices(late) == [0, 2, 4, 6, 8]
    assert sorted(early + late) == expected[0]
    assert sorted(loader) == expected[1]
    loader.teardown()


def test_when_all_are_ready_they_take_turns(gate, wait_until):
    gate.touch()
    loader = new(partial(gated, gate, num_workers=3), 9)
    found = take(loader, 1)
    rings = [feed._ring for feed in loader._feed._feeds]
    wait_until(lambda: all(ring.look().num_unread >= 2 for ring in rings))
    found += take(loader, 5)
    assert {index % 3 for index in indices(found[1:4])} == {0, 1, 2}
    loader.teardown()


def test_the_state_says_how_far_each_worker_is(gate):
    loader = new(partial(gated, gate))
    take(loader, 3)
    state = loader.state_dict()
    assert [entry[:2] for entry in state["workers"]] == [[0, False], [3, False]]
    assert [entry[3] for entry in state["workers"]] == [None, None]
    take(loader, 2)
    assert [entry[:2] for entry in loader.state_dict()["workers"]] == [[0, False], [5, True]]
    gate.touch()
    take(loader, 5)
    assert (loader.state_dict()["epoch"], loader.state_dict()["workers"]) == (1, None)
    loader.teardown()


@pytest.mark.filterwarnings("ignore:.*are read again")
@pytest.mark.parametrize("num_taken", range(6))
@pytest.mark.parametrize("in_order", [False, True])
def test_resumed_nothing_is_lost_or_repeated(gate, dataset, num_taken, in_order):
    expected = two_epochs_in_order(gate, dataset)
    loader = new(partial(gated, gate, dataset))
    begun = take(loader, num_taken)
    state = loader.state_dict()
    gate.touch()
    loader.teardown()
    loader = new(partial(gated, gate, dataset, in_order=in_order))
    loader.load_state_dict(state)
    resumed = rest(loader)
    assert sorted(begun + resumed) == expected[0]
    if in_order:
        assert resumed == sorted(resumed)
    assert sorted(loader) == expected[1]
    loader.teardown()


def test_a_run_in_order_goes_on_out_of_order_with_another_number_of_workers(gate):
    expected = two_epochs_in_order(gate, Gated)
    gate.touch()
    loader = new(partial(gated, gate, num_workers=2, in_order=True))
    begun = take(loader, 3)
    state = loader.state_dict()
    assert state["workers"] is None
    loader.teardown()
    loader = new(partial(gated, gate, num_workers=3))
    loader.load_state_dict(state)
    assert sorted(begun + rest(loader)) == expected[0]
    loader.teardown()


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (partial(gated, num_workers=3), {}, r"each of 2 workers stands in epoch 0"),
        (gated, {"multiprocessing": False}, r"each of 2 workers stands in epoch 0"),
        (gated, {"dp_size": 2}, r"each of 2 workers stands .* for 2 rank"),
        (partial(gated, shuffle=True), {}, "indices of microbatches 0 to 5"),
    ],
    ids=["workers", "no processes", "ranks", "order"],
)
def test_what_cannot_go_on_is_an_error(gate, factory, options, message):
    loader = new(partial(gated, gate), dp_size=1 if "dp_size" in options else None)
    take(loader, 3)
    state = loader.state_dict()
    gate.touch()
    loader.teardown()
    loader = new(partial(factory, gate), **options)
    state["fingerprint"]["source"] = []  # else it would name the sampler, which is right, too
    loader.load_state_dict(state)
    with pytest.raises(ResumeMismatchError, match=message):
        rest(loader)
    loader.teardown()


def test_a_state_of_several_ranks_does_not_say_how_far_each_worker_is(gate):
    gate.touch()
    loader = new(partial(gated, gate), dp_size=2)
    take(loader, 2)
    state = loader.state_dict()
    loader.teardown()
    loader = new(partial(gated, gate), dp_size=1)
    loader.load_state_dict(state)
    with pytest.raises(ResumeMismatchError, match=r"saved by several ranks.*in_order=True"):
        next(loader)
    loader.teardown()


class Shuffled:
    """A sampler that draws another order in each process."""

    def __len__(self):
        return LENGTH

    def __iter__(self):
        order = list(range(LENGTH))
        random.Random(os.getpid()).shuffle(order)
        return iter(order)


def test_workers_that_draw_other_orders_are_an_error(gate):
    gate.touch()
    loader = new(partial(gated, gate, sampler=Shuffled()))
    with pytest.raises(RuntimeError, match="drew other indices"):
        list(loader)
    loader.teardown()


@pytest.mark.filterwarnings("ignore:.*are read again")
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("num_taken", [1, 4])
def test_only_the_one_that_dies_is_started_again(gate, dataset, victim, num_taken):
    expected = two_epochs_in_order(gate, dataset)
    loader = new(partial(gated, gate, dataset), 0)
    found = take(loader, num_taken)
    before = loader._feed.pids
    os.kill(before[victim], signal.SIGKILL)
    gate.touch()
    found += rest(loader)
    assert sorted(found) == expected[0]
    assert sorted(loader) == expected[1]
    after = loader._feed.pids
    assert [number for number in range(2) if before[number] != after[number]] == [victim]
    assert loader.stats().num_restarts == 1
    loader.teardown()


def test_more_workers_than_microbatches(gate):
    gate.touch()
    loader = new(partial(gated, gate, num_workers=12))
    for _ in range(2):
        assert sorted(indices(loader)) == list(range(LENGTH))
    assert len(loader) == LENGTH
    loader.teardown()


class Slow(Gated):
    def __getitem__(self, index):
        time.sleep(0.3 if index == 0 else 0)
        return super().__getitem__(index)


class SlowStream(GatedStream):
    def __init__(self, gate):
        self.samples = Slow(gate)


DEBUGGED, SECOND_RANK = {"multiprocessing": False}, {"dp_size": 2, "dp_rank": 1}


@pytest.mark.parametrize(("options", "begin"), [(DEBUGGED, 0), (SECOND_RANK, 1)])
@pytest.mark.parametrize("slow", [Slow, SlowStream])
def test_where_a_state_could_not_say_it_the_order_is_kept(gate, slow, options, begin):
    gate.touch()
    loader = new(partial(gated, gate, slow), **options)
    step = options.get("dp_size", 1)
    assert indices(loader) == list(range(begin, LENGTH, step))
    loader.teardown()


class Hanging(Gated):
    def __getitem__(self, index):
        pass_through(self.gate)
        return index


def test_a_stall_tells_of_every_worker(gate):
    loader = new(partial(gated, gate, Hanging), timeout=0.2)
    with pytest.raises(StalledError, match=r"(?s)the producer \(pid .*worker 1 of 2 \(pid "):
        rest(loader)
    gate.touch()
    assert len(rest(loader)) == LENGTH
    loader.teardown()
