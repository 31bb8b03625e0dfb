"""Checks of constructor arguments: wrong ones fail at once, by name."""

from __future__ import annotations

import math
import multiprocessing
import operator
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def integer(
    name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None
) -> int:
    """An int within bounds; anything with ``__index__`` but a bool counts as one."""
    if isinstance(value, bool):
        raise _wrong_type(name, "an int", value)
    try:
        number = operator.index(value)
    except TypeError:
        raise _wrong_type(name, "an int", value) from None
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {number}")
    return number


def optional_integer(name: str, value: Any, *, minimum: int) -> int | None:
    """An int of at least ``minimum``, or None."""
    return None if value is None else integer(name, value, minimum=minimum)


def boolean(name: str, value: Any) -> bool:
    """A bool, and nothing that merely has a truth value."""
    if not isinstance(value, bool):
        raise _wrong_type(name, "a bool", value)
    return value


def seconds(name: str, value: Any) -> float:
    """A finite number of seconds, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, "a number of seconds", value)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return float(value)


def function(name: str, value: F) -> F:
    """Something that can be called."""
    if not callable(value):
        raise _wrong_type(name, "callable", value)
    return value


def device(name: str, value: Any) -> torch.device | None:
    """A torch device, or what names one; or None."""
    if value is None or isinstance(value, torch.device):
        return value
    if isinstance(value, str):
        try:
            return torch.device(value)
        except RuntimeError as error:
            raise ValueError(f"{name} is no device: {error}") from None
    raise _wrong_type(name, "a torch.device", value)


def context(name: str, value: Any) -> BaseContext:
    """A multiprocessing context, or the name of its start method; None for the default."""
    if value is None or isinstance(value, str):
        try:
            return multiprocessing.get_context(value)
        except ValueError:
            methods = ", ".join(multiprocessing.get_all_start_methods())
            raise ValueError(f"{name} must be one of {methods}, got {value!r}") from None
    if not isinstance(value, BaseContext):
        raise _wrong_type(name, "the name of a start method or a multiprocessing context", value)
    return value


def profiler(name: str, value: Any) -> Any:
    """A Lightning profiler, or something with the same methods; or None."""
    methods = ("start", "stop", "describe", "teardown")
    if value is not None and not all(callable(getattr(value, m, None)) for m in methods):
        raise _wrong_type(name, f"a profiler (with {', '.join(methods)})", value)
    return value


def _wrong_type(name: str, wanted: str, value: Any) -> TypeError:
    return TypeError(f"{name} must be {wanted}, got {value!r} of type {type(value).__name__}")
