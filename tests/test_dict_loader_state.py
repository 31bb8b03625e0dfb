"""The state of a mixture: when it is taken, what it costs, and which one is refused."""

from __future__ import annotations

import copy
import itertools

import pytest

from fkat.data import DictDataLoader, ShmDataLoader
from fkat.data.errors import ResumeMismatchError, StateError
from fkat.data.samplers.strategies import RoundRobin
from tests.mixtures import (
    KINDS,
    READ_AGAIN,
    SET_VITAL,
    STRATEGIES,
    Counting,
    epochs_of,
    mixture,
    place_of,
    through_a_file,
)

pytestmark = pytest.mark.filterwarnings(SET_VITAL)


# Snapshots.


@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_made_into_a_state_late_is_that_of_its_moment(kind):
    loader = mixture("weighted", [kind] * 3)
    snapshots, states = [loader.snapshot()], [loader.state_dict()]
    for _ in itertools.chain(loader, loader):
        snapshots.append(loader.snapshot())
        states.append(copy.deepcopy(loader.state_dict()))
    assert [str(snapshot()) for snapshot in snapshots] == [str(state) for state in states]


# One that counts its epochs itself cannot know of an epoch that it had no turn in.
@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"of the user"}))
@pytest.mark.parametrize("strategy", ["weighted", "weighted, one off", "list"])
def test_the_next_epoch_can_be_resumed_from_anywhere_in_this_one(strategy, kind):
    def new():
        return mixture(strategy, [kind] * 3)

    (_, second, third) = epochs_of(new(), 3)
    loader = new()
    for _ in range(3):
        next(loader)
        state = loader.snapshot(next_epoch=True)()
        assert (state["epoch"], state["microbatch"], state["draws"]) == (1, 0, 0)
        resumed = new()
        resumed.load_state_dict(through_a_file(state))
        assert epochs_of(resumed, 2) == [second, third]


@pytest.mark.parametrize("kind", ["shm", "shm of batches", "torchdata", "plain", "list"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_a_length_the_last_microbatch_ends_the_epoch(strategy, kind):
    loader = mixture(strategy, [kind] * 3)
    places = []
    for _ in range(len(loader)):
        next(loader)
        state = loader.state_dict()
        places.append((state["epoch"], state["microbatch"]))
    assert places == [*((0, i) for i in range(1, len(loader))), (1, 0)]


def test_in_the_state_of_the_next_epoch_every_loader_is_in_it():
    loader = mixture("round robin", ["shm"] * 3)
    for _ in range(5):  # b and c are over, as the state of b and c can tell
        next(loader)
    resumed = mixture("round robin", ["shm"] * 3)
    resumed.load_state_dict(loader.state_dict())
    for each in (loader, resumed):
        records = each.snapshot(next_epoch=True)()["dataloaders"].values()
        assert [record["state"]["epoch"] for record in records] == [1, 1, 1]


def test_only_the_loader_that_moved_is_asked_again():
    asked = []

    class Asked(Counting):
        def state_dict(self):
            asked.append(self.count)
            return super().state_dict()

    loader = DictDataLoader({"a": Asked(8), "b": Asked(9)}, RoundRobin(["a", "b"]))
    for _ in range(4):
        next(loader)
        loader.snapshot()
        loader.snapshot()
    assert asked == [8, 9, 8, 9]


def test_a_state_is_read_without_side_effects():
    asked = mixture("weighted", ["shm", "torchdata", "of the user"])
    unasked = mixture("weighted", ["shm", "torchdata", "of the user"])
    for _ in range(3):
        asked.state_dict()
        asked.snapshot(next_epoch=True)()
    found = [(asked.state_dict(), place_of(batch))[1] for batch in itertools.chain(asked, asked)]
    assert found == list(itertools.chain(*epochs_of(unasked, 2)))


# What is refused.


class Saves:
    """A loader that can save its state but not load it."""

    def __iter__(self):
        return iter([])

    def state_dict(self):
        return {}


class Loads:
    """The reverse."""

    def __iter__(self):
        return iter([])

    def load_state_dict(self, state_dict):
        pass


@pytest.mark.parametrize(
    ("loader", "text"),
    [
        (Saves(), "loader 'a' is a stateful child without load_state_dict"),
        (Loads(), "loader 'a' is a stateful child without state_dict"),
    ],
)
def test_half_a_stateful_loader_is_refused_at_once(loader, text):
    with pytest.raises(TypeError, match=text):
        DictDataLoader({"a": loader}, ["a"])


class Unplain(Counting):
    """A loader whose state would keep the checkpoint from loading."""

    def state_dict(self):
        return {"rng": object()}


def test_a_state_that_no_checkpoint_can_hold_is_refused_by_name():
    loader = DictDataLoader({"a": Unplain(3)}, itertools.repeat("a"))
    next(loader)
    with pytest.raises(TypeError, match=r"state of loader 'a' \(Unplain\)"):
        loader.state_dict()


def changed(state, **changes):
    return {**state, **changes}


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


def with_record(state, /, **changes):
    records = state["dataloaders"]
    return {**state, "dataloaders": {**records, "b": {**records["b"], **changes}}}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: changed(s, version=99), "version 99.*upgrade"),
        (lambda s: changed(s, **{"class": "ShmDataLoader"}), "'ShmDataLoader'"),
        (lambda s: without(s, "draws"), "lacks 'draws'"),
        (lambda s: changed(s, more=1), "'more'"),
        (lambda s: changed(s, epoch="0"), "'epoch'.*type int"),
        (lambda s: changed(s, epoch=True), "'epoch'.*type int"),
        (lambda s: changed(s, microbatch=-1), "'microbatch'.*-1"),
        (lambda s: changed(s, draws=2**63), "'draws'"),
        (lambda s: changed(s, dataloaders=[]), "'dataloaders'.*type dict"),
        (lambda s: changed(s, dataloaders=without(s["dataloaders"], "b")), "'a', 'c'; here are"),
        (lambda s: changed(s, dataloaders={**s["dataloaders"], "d": {}}), "'d'; here are"),
        (lambda s: changed(s, dataloaders={**s["dataloaders"], "b": 1}), "loader 'b'.*got a int"),
        (lambda s: with_record(s, count=-1), "'count'.*loader 'b'.*-1"),
        (lambda s: with_record(s, count=None), "'count'.*loader 'b'"),
        (lambda s: with_record(s, state=None), "loader 'b' kept no state of its own"),
        (lambda s: with_record(s, state={}), "'state'.*loader 'b'.*type bytes or NoneType"),
        (lambda s: with_record(s, state=b"garbage"), "state of loader 'b' cannot be read"),
        (lambda s: with_record(s, extra=1), "loader 'b'.*'extra'"),
        (lambda s: [s], "a state of DictDataLoader is a dict"),
    ],
)
def test_a_wrong_state_is_refused(change, text):
    loader = mixture("weighted", ["shm", "torchdata", "list"])
    for _ in range(5):
        next(loader)
    with pytest.raises(StateError, match=text):
        mixture("weighted", ["shm", "torchdata", "list"]).load_state_dict(
            change(loader.state_dict())
        )


def test_after_a_refusal_the_loader_is_as_it_was():
    loader = mixture("weighted", ["shm"] * 3)
    expected = epochs_of(mixture("weighted", ["shm"] * 3), 1)[0]
    first = place_of(next(loader))
    with pytest.raises(StateError):
        loader.load_state_dict(without(loader.state_dict(), "draws"))
    assert [first, *(place_of(next(loader)) for _ in range(6))] == expected


def test_another_strategy_is_an_error_that_names_both_or_a_warning():
    state = mixture("weighted", ["shm"] * 3).state_dict()
    loader = mixture("round robin", ["shm"] * 3)
    with pytest.raises(ResumeMismatchError, match=r"was Weighted\(.*seed=1\), is RoundRobin\("):
        loader.load_state_dict(state)
    with pytest.warns(UserWarning, match="strategy was Weighted"):
        loader.load_state_dict(state, strict=False)
    assert len(list(loader)) == 7


def test_strict_is_passed_on_to_the_loaders():
    state = DictDataLoader(
        {"a": ShmDataLoader(1, Saves, multiprocessing=False)}, ["a"]
    ).state_dict()
    loader = DictDataLoader({"a": ShmDataLoader(2, Saves, multiprocessing=False)}, ["a"])
    with pytest.raises(ResumeMismatchError, match="seed was 1, is 2"):
        loader.load_state_dict(state)
    with pytest.warns(UserWarning, match="seed was 1, is 2"):
        loader.load_state_dict(state, strict=False)
