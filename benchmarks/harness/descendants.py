"""The processes under this one, whoever of the loaders started them and how."""

from __future__ import annotations

import os
from pathlib import Path


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except FileNotFoundError:  # it, or one of its threads, ended meanwhile
        pass
    return found


def descendants() -> list[int]:
    """Process ids of children, their children, and so on."""
    found = _children(os.getpid())
    for pid in found:  # grows while it is walked
        found += _children(pid)
    return found
