"""What every state dict of this package has in common, and how a wrong one is refused.

A state holds plain types only (None, bool, int, float, str, bytes, list, dict, tensor), so that a
checkpoint loads with ``weights_only=True``; and its keys are the same from the first microbatch to
the last, so that ``torch.distributed.checkpoint`` can plan to load it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from fkat.data.errors import ResumeMismatchError, StateError

VERSION = 2

# The kind of a value: a type, or several.
Kind = type | tuple[type, ...]


@runtime_checkable
class PersistStates(Protocol):
    """Whatever can say where it stands."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, in plain types. Has no side effect."""


@runtime_checkable
class RestoreStates(Protocol):
    """Whatever can go on where another stood."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state that ``state_dict()`` returned."""


@runtime_checkable
class Resumable(Protocol):
    """What the loaders of this package offer beyond `PersistStates` and `RestoreStates`."""

    def prepare(self) -> None:
        """Have the first microbatches made before they are asked for."""

    def leave_epoch(self) -> None:
        """Stand at the beginning of the next epoch if this one has begun; starts nothing."""

    def snapshot(self, next_epoch: bool = False) -> Callable[[], dict[str, Any]]:
        """The present position, cheaply: the result is what ``state_dict()`` would return now.

        Args:
            next_epoch: The beginning of the following epoch instead, wherever this one stands.
        """

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Go on from a state; ``{}`` changes nothing.

        Raises:
            StateError: It is no state of this class and version, or (unless ``strict`` is False,
                which makes it a warning) one of another seed or world size. What only the
                producer can compare, it compares before the next microbatch.
        """


def header(kind: str) -> dict[str, Any]:
    """The first keys of every state of the class named ``kind``."""
    return {"version": VERSION, "class": kind}


def check(state: Any, kind: str, keys: dict[str, Kind]) -> None:
    """Refuse what is not a state of ``kind`` with exactly these keys and the header's.

    Raises:
        StateError: Says what is wrong: not a dict, newer, another class's, or a key that is
            missing, unknown or of the wrong type.
    """
    if not isinstance(state, dict):
        raise StateError(f"a state of {kind} is a dict, got a {type(state).__name__}")
    version = state.get("version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise StateError(f"this is no state of {kind}: its 'version' is {version!r}, not an int")
    if version > VERSION:
        raise StateError(
            f"this state of {state.get('class', kind)} has version {version}; this release of "
            f"fkat.data reads versions up to {VERSION}: upgrade fkat-data to load it"
        )
    if state.get("class") != kind:
        raise StateError(f"this is a state of {state.get('class')!r}, it was given to a {kind}")
    check_keys(state, kind, {"version": int, "class": str, **keys})


def check_keys(state: dict[str, Any], kind: str, wanted: dict[str, Kind]) -> None:
    """Refuse what does not have exactly these keys, with values of these types.

    Raises:
        StateError: Names each key that is missing, unknown or of the wrong type.
    """
    if missing := [key for key in wanted if key not in state]:
        raise StateError(f"this state of {kind} lacks {_listed(missing)}")
    if extra := [key for key in state if key not in wanted]:
        raise StateError(f"this state of {kind} has what it should not: {_listed(extra)}")
    for key, types in wanted.items():
        if not _is(state[key], types):
            names = " or ".join(t.__name__ for t in _several(types))
            raise StateError(
                f"{key!r} in this state of {kind} should be of type {names}, it is {state[key]!r}"
            )


def object_to(found: list[str], strict: bool) -> None:
    """Refuse, or with ``strict=False`` warn, because of differences between then and now.

    Args:
        found: What differs, in words; may be empty.
        strict: As given to ``load_state_dict``.

    Raises:
        ResumeMismatchError: Something differs, and ``strict`` is True.
    """
    if not found:
        return
    text = explain(found, "compared when it was loaded")
    if strict:
        raise ResumeMismatchError(text)
    warnings.warn(text, stacklevel=3)


def explain(found: Iterable[str], where: str) -> str:
    """The text of an error or a warning about differences."""
    return (
        f"the data is not what it was when the state was saved ({where}): {'; '.join(found)}. "
        "Resume with the dataset, sampler, batch size and seed of before, or call "
        "load_state_dict(state, strict=False) to go on all the same"
    )


def _is(value: Any, types: Kind) -> bool:
    wanted = _several(types)
    return isinstance(value, wanted) and (not isinstance(value, bool) or bool in wanted)


def _several(types: Kind) -> tuple[type, ...]:
    return types if isinstance(types, tuple) else (types,)


def _listed(keys: list[Any]) -> str:
    return ", ".join(repr(key) for key in keys)
