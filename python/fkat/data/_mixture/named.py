"""The name of its loader, in a microbatch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from typing import Any


def with_name(microbatch: Any, name: str, key: str) -> Any:
    """A shallow copy of a microbatch with ``name`` under ``key``; a dict stays of its class.

    The loader's own is left as it is: it may give the same object again.

    Raises:
        RuntimeError: It is no dict (no mapping), or has the key already.
    """
    if not isinstance(microbatch, Mapping):
        raise RuntimeError(
            f"loader {name!r} must give dicts, to get the key {key!r}; it gave a "
            f"{type(microbatch).__qualname__}"
        )
    if key in microbatch:
        raise RuntimeError(
            f"a microbatch of loader {name!r} already has the key {key!r}: choose another, "
            "DictDataLoader(..., key=...)"
        )
    if type(microbatch) is dict or not isinstance(microbatch, MutableMapping):
        return {**microbatch, key: name}
    named = copy.copy(microbatch)
    named[key] = name
    return named
