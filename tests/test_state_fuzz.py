"""A state with garbage in it is refused, or used as one."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fkat.data import ShardedDataLoader, ShmDataLoader
from fkat.data.errors import StateError
from tests.tampered import RefusedError, items, saved_by_torch, state_of, stream_loader


def new_plain(**options: Any) -> ShmDataLoader:
    return ShmDataLoader(7, items, 2, multiprocessing=False, **options)


def new_dealt() -> ShmDataLoader:
    return new_plain(dp_size=2)


def new_stream() -> ShmDataLoader:
    return stream_loader(multiprocessing=False)


def new_sharded() -> ShardedDataLoader:
    return ShardedDataLoader(7, ["a", "b", "c"], items, 0, multiprocessing=False)


NEW = [new_plain, new_dealt, new_stream, new_sharded]
STATES = {new: state_of(new(), 1 if new is new_dealt else 2) for new in NEW}


@pytest.mark.parametrize("new", NEW)
def test_a_state_goes_through_a_file_that_is_loaded_with_weights_only(new):
    state = torch.load(io.BytesIO(saved_by_torch(STATES[new])), weights_only=True)
    assert state.keys() == STATES[new].keys()
    loader = new()
    loader.load_state_dict(state)
    next(loader)


plain = st.one_of(
    *[st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)],
    *[st.sampled_from([0, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40, 1e308])],
    st.binary(max_size=40),
)
garbage = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=12,
)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to everything in a state."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [path, *(place for key, item in items for place in places_in(item, (*path, key)))]


def changed_at(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(value)
    copy = value.copy()
    copy[path[0]] = changed_at(value[path[0]], path[1:], change)
    return copy


def without(path: tuple[Any, ...], state: Any) -> Any:
    def remove(container: Any) -> Any:
        copy = container.copy()
        del copy[path[-1]]
        return copy

    return changed_at(state, path[:-1], remove)


fuzzed = settings(
    deadline=None, database=None, max_examples=150, suppress_health_check=list(HealthCheck)
)


def assert_refused_or_used(new: Callable[[], Any], state: Any, strict: bool) -> None:
    """It is refused by name, at once or when the data is looked at; or it leads to microbatches.

    What is no code and not damaged in its outer form reaches the user's ``load_state_dict``.
    """
    loader = new()
    before = loader.state_dict()
    try:
        loader.load_state_dict(state, strict=strict)
    except StateError:
        assert str(loader.state_dict()) == str(before)  # also where there are tensors
        next(loader)
        return
    with contextlib.suppress(StateError, RefusedError):
        for _ in loader:
            pass
    loader.teardown()


@pytest.mark.parametrize("new", NEW)
def test_a_state_without_any_one_thing_is_refused(new):
    state = STATES[new]
    for path in places_in(state)[1:]:
        loader = new()
        if all(isinstance(key, str) for key in path):
            with pytest.raises(StateError):
                loader.load_state_dict(without(path, state))
        else:
            assert_refused_or_used(new, without(path, state), strict=True)


@pytest.mark.filterwarnings("ignore::UserWarning")  # what differs, what is read again
@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("strict", [True, False])
@fuzzed
@given(data=st.data())
def test_a_state_with_garbage_in_it_is_refused_or_used(new, strict, data):
    path = data.draw(st.sampled_from(places_in(STATES[new])[1:]))
    state = changed_at(STATES[new], path, lambda _: data.draw(garbage))
    assert_refused_or_used(new, state, strict)


@pytest.mark.parametrize("new", NEW)
@fuzzed
@given(state=garbage)
def test_garbage_instead_of_a_state_is_refused(new, state):
    if state == {}:
        return
    with pytest.raises(StateError):
        new().load_state_dict(state)


@fuzzed
@given(data=st.data())
def test_damaged_bytes_of_an_inner_state_are_refused_or_used(data):
    inner = bytearray(STATES[new_stream]["inner"])
    for _ in range(data.draw(st.integers(1, 6))):
        inner[data.draw(st.integers(0, len(inner) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del inner[data.draw(st.integers(0, len(inner))) :]
    assert_refused_or_used(new_stream, {**STATES[new_stream], "inner": bytes(inner)}, strict=True)
