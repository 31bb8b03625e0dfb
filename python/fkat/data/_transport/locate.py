"""Finds the place in an object of the thing that cannot be pickled."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_MAX_DEPTH = 12


def describe_unpicklable(obj: Any, name: str, dump: Callable[[Any], Any], error: Exception) -> str:
    """A sentence that names the innermost part of ``obj`` that ``dump`` refuses.

    Args:
        obj: What could not be dumped.
        name: What the reader knows it as.
        dump: Raises for an object that cannot be dumped.
        error: What it raised for ``obj``; its text is repeated.
    """
    path, culprit = _descend(obj, name, dump)
    hint = ""
    if isinstance(culprit, types.FunctionType) and "<" in culprit.__qualname__:
        hint = "; lambdas and local functions cannot: define it at the top of a module"
    return f"{path} (a {_type_name(culprit)}) cannot be sent to another process: {error}{hint}"


def _descend(obj: Any, path: str, dump: Callable[[Any], Any]) -> tuple[str, Any]:
    for _ in range(_MAX_DEPTH):
        for child_path, child in _children(obj, path):
            if not _can(dump, child):
                obj, path = child, child_path
                break
        else:
            return path, obj
    return path, obj


def _can(dump: Callable[[Any], Any], obj: Any) -> bool:
    try:
        dump(obj)
    except Exception:
        return False
    return True


def _children(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, Mapping):
        for key, value in obj.items():
            yield f"{path}[{key!r}]", value
    elif isinstance(obj, list | tuple):
        names = getattr(obj, "_fields", None)
        for i, value in enumerate(obj):
            yield (f"{path}.{names[i]}" if names else f"{path}[{i}]"), value
    elif isinstance(obj, set | frozenset):
        for value in obj:
            yield f"an element of {path}", value
    elif isinstance(obj, functools.partial):
        yield f"{path}.func", obj.func
        for i, value in enumerate(obj.args):
            yield f"{path}.args[{i}]", value
        for key, value in obj.keywords.items():
            yield f"{path}.keywords[{key!r}]", value
    elif isinstance(obj, types.MethodType):
        yield f"{path}.__self__", obj.__self__
    if isinstance(obj, type | types.ModuleType | types.FunctionType):
        return
    attributes = getattr(obj, "__dict__", None) or {}
    # Public ones first: Lightning keeps the arguments of a DataLoader in an attribute of its own.
    for key in sorted(attributes, key=lambda key: str(key).startswith("_")):
        yield f"{path}.{key}", attributes[key]


def _type_name(obj: Any) -> str:
    kind = type(obj)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
