"""The loaders that are compared: how each is made for a map-style source.

Each as its own documentation says to use it. A peer is imported only when it is opened: one that is
not installed raises ModuleNotFoundError then, and is listed as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from benchmarks.peers import dataloader, fkat, grain, published, spdl, spdl_iterate
from benchmarks.peers.spec import Spec

__all__ = ["PEERS", "TITLES", "Spec", "num_at_once"]

PEERS: dict[str, Callable[[Spec], AbstractContextManager[Iterable[Any]]]] = {
    "dataloader": dataloader.open_loader,
    "stateful": dataloader.open_stateful,
    "spdl-iterate": spdl_iterate.open_loader,
    "spdl": spdl.open_loader,
    "grain": grain.open_loader,
    "published": published.open_loader,
    "fkat": fkat.open_loader,
}
"""Name -> what opens the loader: a context manager, which ends its processes."""

TITLES = {
    "dataloader": "torch DataLoader",
    "stateful": "torchdata StatefulDataLoader",
    "spdl-iterate": "SPDL iterate_in_subprocess, segment pool",
    "spdl": "SPDL pipeline in a subprocess, segment pool",
    "grain": "Grain mp_prefetch",
    "published": "fkat 0.1.2 (published)",
    "fkat": "fkat ShmDataLoader",
}
"""Name -> how it is called in a table."""


def num_at_once(name: str, spec: Spec) -> int:
    """How many microbatches a loader makes at the same time: one in each worker or thread."""
    return spec.num_workers * (grain.num_threads(spec) if name == "grain" else 1)
