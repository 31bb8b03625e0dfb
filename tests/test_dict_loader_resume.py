"""A mixture that was stopped anywhere goes on as if it had never stopped."""

from __future__ import annotations

import functools
import itertools
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from fkat.data import DictDataLoader
from fkat.data.errors import ResumeMismatchError
from tests.mixtures import (
    KINDS,
    READ_AGAIN,
    SET_VITAL,
    STRATEGIES,
    Stream,
    epochs_of,
    mixture,
    of_map,
    place_of,
    shm,
    through_a_file,
)

pytestmark = pytest.mark.filterwarnings(SET_VITAL)


def assert_resumes_everywhere(new, num_epochs=2):
    """At every step of every epoch, resume, and compare the whole tail and an epoch more."""
    expected = epochs_of(new(), num_epochs + 1)
    loader = new()
    for epoch in range(num_epochs):
        iter(loader)
        for step in range(len(expected[epoch]) + 1):
            state = loader.state_dict()
            resumed = new()
            resumed.load_state_dict(through_a_file(state))
            assert keys_of(resumed.state_dict()) == keys_of(state)
            # With a length, an epoch whose last microbatch was delivered is not begun again.
            at_end = (state["epoch"], state["microbatch"]) == (epoch + 1, 0)
            assert at_end or (state["epoch"], state["microbatch"]) == (epoch, step)
            assert not at_end or step == len(expected[epoch])
            tail = (
                expected[epoch + 1 :]
                if at_end
                else [expected[epoch][step:], *expected[epoch + 1 :]]
            )
            assert epochs_of(resumed, len(tail)) == tail
            batch = next(loader, None)
        assert batch is None
        assert loader.state_dict()["epoch"] == epoch + 1


def keys_of(state):
    return {k: keys_of(v) if isinstance(v, dict) else None for k, v in state.items()}


@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resume_at_every_step(strategy, kind):
    assert_resumes_everywhere(lambda: mixture(strategy, [kind] * 3))


@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("strategy", ["weighted", "round robin"])
@pytest.mark.parametrize("kinds", itertools.permutations(["shm", "torchdata", "plain"]), ids=str)
def test_resume_at_every_step_with_loaders_of_different_kinds(strategy, kinds):
    assert_resumes_everywhere(lambda: mixture(strategy, kinds))


@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("strategy", ["weighted", "frequency"])
def test_resume_at_every_step_with_producer_processes(strategy):
    def new():
        made = {
            "a": shm(functools.partial(of_map, DataLoader, 3), multiprocessing=True),
            "b": shm(functools.partial(Stream, 2), multiprocessing=True),
            "c": KINDS["torchdata"](1),
        }
        return DictDataLoader(made, STRATEGIES[strategy]())

    assert_resumes_everywhere(new, num_epochs=1)


@pytest.mark.parametrize("lengths", [{"a": 0, "b": 2, "c": 1}, {"a": 3, "b": 0, "c": 0}], ids=str)
@pytest.mark.parametrize("kind", ["shm", "torchdata"])
def test_resume_at_every_step_with_an_empty_loader(kind, lengths):
    assert_resumes_everywhere(lambda: mixture("weighted", [kind] * 3, lengths))


@pytest.mark.filterwarnings(READ_AGAIN)
@settings(max_examples=40, deadline=None)
@given(
    kinds=st.tuples(*[st.sampled_from(sorted(set(KINDS) - {"mixture"}))] * 3),
    strategy=st.sampled_from(sorted(STRATEGIES)),
    lengths=st.fixed_dictionaries(dict.fromkeys("abc", st.integers(0, 4))),
    stops=st.lists(st.integers(0, 6), max_size=4),
)
def test_resumed_again_and_again_it_gives_what_it_would_have_given(kinds, strategy, lengths, stops):
    def new():
        return mixture(strategy, kinds, lengths)

    whole = new()
    expected = [item for epoch in epochs_of(whole, 8) for item in epoch]
    loader, found = new(), []
    for stop in stops:
        for batch in itertools.islice(loader, stop):
            found.append(place_of(batch))
        state = loader.state_dict()
        loader = new()
        loader.load_state_dict(state)
    found += [place_of(batch) for batch in loader]
    assert found == expected[: len(found)]


# Loading.


@pytest.mark.filterwarnings(READ_AGAIN)
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"of the user"}))
@pytest.mark.parametrize("into", [0, 2, 5, 8, 9])
def test_a_state_can_be_loaded_into_a_loader_that_is_under_way(into, kind):
    def new():
        return mixture("round robin", [kind] * 3)

    expected = epochs_of(new(), 3)
    source = new()
    states = [source.state_dict()]
    for _ in range(6):
        next(source)
        states.append(source.state_dict())
    for step, state in enumerate(states):
        loader = new()
        list(itertools.islice(itertools.chain(loader, loader), into))
        loader.load_state_dict(state)
        iter(loader)
        assert epochs_of(loader, 3) == [expected[0][step:], *expected[1:]]


def test_an_empty_state_changes_nothing():
    loader = mixture("weighted", ["shm"] * 3)
    whole = epochs_of(mixture("weighted", ["shm"] * 3), 1)[0]
    next(loader)
    loader.load_state_dict({})
    assert [place_of(next(loader)) for _ in range(6)] == whole[1:]


@pytest.mark.parametrize("kind", ["shm", "torchdata", "of the user"])
def test_set_epoch_after_a_resume_keeps_the_place_in_that_epoch(kind):
    expected = epochs_of(mixture("weighted", [kind] * 3), 2)
    loader = mixture("weighted", [kind] * 3)
    list(loader)
    iter(loader)
    next(loader)
    resumed = mixture("weighted", [kind] * 3)
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(1)
    assert epochs_of(resumed, 1) == [expected[1][1:]]


def test_reading_again_warns_of_each_loader_and_says_how_to_avoid_it():
    loader = mixture("round robin", ["plain", "list", "shm"])
    for _ in range(5):
        next(loader)
    resumed = mixture("round robin", ["plain", "list", "shm"])
    resumed.load_state_dict(loader.state_dict())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        next(resumed)
    texts = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    assert ["2 microbatches of loader 'a'" in text for text in texts] == [True, False]
    assert ["2 microbatches of loader 'b'" in text for text in texts] == [False, True]
    assert all("ShmDataLoader" in text for text in texts)


@pytest.mark.filterwarnings(READ_AGAIN)
def test_reading_again_what_has_become_shorter_is_an_error():
    loader = DictDataLoader({"a": [{"x": i} for i in range(4)]}, ["a"] * 4)
    for _ in range(3):
        next(loader)
    resumed = DictDataLoader({"a": [{"x": 0}]}, ["a"] * 4)
    resumed.load_state_dict(loader.state_dict())
    with pytest.raises(ResumeMismatchError, match=r"'a' had delivered 3 .* ends after 1"):
        next(resumed)


def test_after_an_error_iter_begins_a_resumed_epoch_where_it_was_resumed():
    new = functools.partial(mixture, "round robin", ["shm"] * 3)
    expected = epochs_of(new(), 1)[0]
    loader = new()
    next(loader)
    resumed = new()
    resumed.load_state_dict(loader.state_dict())
    next(resumed)
    resumed._children["b"]._microbatches = iter([3])  # no dict
    resumed._children["c"]._microbatches = iter([3])
    with pytest.raises(RuntimeError, match="must give dicts"):
        next(resumed)
    assert epochs_of(resumed, 1) == [expected[1:]]


def test_a_teardown_in_the_middle_does_not_change_the_state():
    loader = mixture("weighted", ["shm", "torchdata", "shm without length"])
    next(loader)
    state = loader.state_dict()
    loader.teardown()
    assert str(loader.state_dict()) == str(state)
