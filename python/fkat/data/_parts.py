"""What a loader is made of, as far as it shows: each may have hooks that want to be called."""

from __future__ import annotations

from typing import Any


def parts(loader: Any) -> list[Any]:
    """A loader, its dataset, sampler and batch sampler (and that one's sampler), each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    candidates = (
        loader,
        getattr(loader, "dataset", None),
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    )
    return list({id(part): part for part in candidates if part is not None}.values())


def set_epoch_of(loader: Any, epoch: int) -> None:
    """Tell the epoch to whatever orders by it, as Lightning does for a ``DistributedSampler``."""
    for part in parts(loader):
        set_epoch = getattr(part, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
