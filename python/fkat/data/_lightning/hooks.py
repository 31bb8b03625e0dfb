"""Hooks of the data module, passed on to a loader and to what it is made of."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any


def parts_of_config(config: dict[str, Any]) -> list[Any]:
    """The same of the arguments of a ``DataLoader`` that does not exist yet."""
    candidates = (config.get(name) for name in ("dataset", "sampler", "batch_sampler"))
    return list({id(part): part for part in candidates if part is not None}.values())


def call(parts: list[Any], hook: str, *args: Any) -> None:
    """Call a hook on whichever of ``parts`` has it; on all of them, even if one raises."""
    with ExitStack() as stack:
        for part in reversed(parts):  # the stack runs backwards
            method = getattr(part, hook, None)
            if callable(method):
                stack.callback(method, *args)
